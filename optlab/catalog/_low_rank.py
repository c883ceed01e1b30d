"""Rows of ``optlab.transforms.low_rank``; bytes are those of rank 2 at 512 x 1024."""

from optlab.catalog._method import Method

__all__ = ["ROWS"]

_FAMILY = "transforms.low_rank"

ROWS = (
    Method(
        name="dct_adamw",
        family=_FAMILY,
        symbol="optlab.transforms.low_rank.dct_adamw",
        summary="Adam on the largest cosine coefficients, with rotated moments and error feedback",
        papers=("modoranu2025fft",),
        arguments={"learning_rate": 1e-2, "rank": 2, "weight_decay": 0.1},
        variants={
            "fast_basis": {"projector": "dct-II"},
            "interval": {"update_interval": 2},
        },
        state_bytes=4.03,
        config="low_rank_dct_adamw_tinyshakespeare.py",
    ),
    Method(
        name="fira",
        family=_FAMILY,
        symbol="optlab.transforms.low_rank.fira",
        summary="GaLore, and the part of the gradient outside its subspace, scaled alike",
        papers=("chen2025fira",),
        arguments={
            "learning_rate": 1e-2,
            "rank": 2,
            "update_interval": 10,
            "scale": 1.0,
            "weight_decay": 0.1,
        },
        variants={"as_released": {"exact_residual": False, "as_released": True}},
        state_bytes=0.039,
        config="low_rank_fira_tinyshakespeare.py",
    ),
    Method(
        name="galore",
        family=_FAMILY,
        symbol="optlab.transforms.low_rank.galore",
        summary="Adam on the gradient's leading singular directions",
        papers=("zhao2024galore",),
        arguments={
            "learning_rate": 1e-2,
            "rank": 2,
            "update_interval": 10,
            "scale": 1.0,
            "weight_decay": 0.1,
        },
        variants={
            "random": {"projector": "random", "update_interval": 20},
            "as_released": {"as_released": True},
        },
        state_bytes=0.039,
        config="low_rank_galore_tinyshakespeare.py",
    ),
    Method(
        name="natural_galore",
        family=_FAMILY,
        symbol="optlab.transforms.low_rank.natural_galore",
        summary="GaLore on natural gradients, by the empirical Fisher matrix of recent steps",
        papers=("das2024natural",),
        arguments={
            "learning_rate": 1e-2,
            "rank": 2,
            "update_interval": 10,
            "scale": 1.0,
            "history": 5,
            "damping": 1.0,
            "weight_decay": 0.1,
        },
        variants={
            "mean_of_the_past": {
                "fisher": "mean",
                "include_current": False,
                "clear_on_refresh": True,
            },
        },
        state_bytes=0.117,
        config="low_rank_natural_galore_tinyshakespeare.py",
    ),
    Method(
        name="trion",
        family=_FAMILY,
        symbol="optlab.transforms.low_rank.trion",
        summary="orthogonalised momentum of low rank in a cosine basis",
        papers=("modoranu2025fft",),
        arguments={"learning_rate": 1e-2, "rank": 2, "weight_decay": 0.1},
        state_bytes=4.0,
        config="low_rank_trion_tinyshakespeare.py",
    ),
    Method(
        name="limit_norm_growth",
        family="transforms.low_rank",
        symbol="optlab.transforms.low_rank.limit_norm_growth",
        summary="Fira's clip: a leaf's norm may grow by a factor a step at most",
        papers=("chen2025fira",),
        unswept="a clip inside a chain",
        state_bytes=0.0,
    ),
    Method(
        name="lora_sb",
        family="transforms.low_rank",
        symbol="optlab.transforms.low_rank.lora_sb",
        summary="adapters of r x r numbers, in the bases of the first step of full training",
        papers=("ponkshe2024lorasb",),
        unswept="finds the params of adapters, which any optimizer then trains",
        notebook="lora_sb.ipynb",
    ),
    Method(
        name="sparse_spectral",
        family="transforms.low_rank",
        symbol="optlab.transforms.low_rank.sparse_spectral",
        summary="Adam on all singular values, and on a few singular vectors at a time",
        papers=("zhao2025spectral",),
        unswept="trains matrices that are kept as spectral_factors",
        arguments={"learning_rate": 1e-2, "rank": 2, "sample_interval": 10},
        state_bytes=0.055,
        config="low_rank_sparse_spectral_fashion_mnist.py",
    ),
)
