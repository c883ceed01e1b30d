"""Optimizers that work on projections of the gradients, and their building block.

:func:`low_rank` runs any optax transformation on the projections that a :class:`Projector` picks:
``"svd"``, ``"tucker"`` (for tensors too), ``"random"``, ``"dct-II"`` or ``"dct-III"``.
:func:`sparse_spectral` trains matrices that are kept as :class:`SpectralFactors`, and
:func:`lora_sb` finds the bases of adapters that an optimizer then trains.
"""

from optlab.transforms.low_rank._dct_adamw import dct_adamw
from optlab.transforms.low_rank._fira import fira
from optlab.transforms.low_rank._galore import galore
from optlab.transforms.low_rank._limit_norm_growth import LimitNormGrowthState, limit_norm_growth
from optlab.transforms.low_rank._lora_sb import LoraBases, lora_sb, lora_sb_merge
from optlab.transforms.low_rank._low_rank import LowRankState, low_rank
from optlab.transforms.low_rank._natural_galore import (
    ScaleByInverseFisherState,
    natural_galore,
    scale_by_inverse_fisher,
)
from optlab.transforms.low_rank._projectors import (
    Projector,
    dct,
    get_projector,
    random,
    svd,
    tucker,
)
from optlab.transforms.low_rank._sparse_spectral import (
    SparseSpectralState,
    SpectralFactors,
    SpectralLayerState,
    sparse_spectral,
    spectral_dense,
    spectral_factors,
    spectral_matrix,
)
from optlab.transforms.low_rank._trion import trion

__all__ = [
    "LimitNormGrowthState",
    "LoraBases",
    "LowRankState",
    "Projector",
    "ScaleByInverseFisherState",
    "SparseSpectralState",
    "SpectralFactors",
    "SpectralLayerState",
    "dct",
    "dct_adamw",
    "fira",
    "galore",
    "get_projector",
    "limit_norm_growth",
    "lora_sb",
    "lora_sb_merge",
    "low_rank",
    "natural_galore",
    "random",
    "scale_by_inverse_fisher",
    "sparse_spectral",
    "spectral_dense",
    "spectral_factors",
    "spectral_matrix",
    "svd",
    "trion",
    "tucker",
]
