"""Rows of ``optlab.transforms.matrix``."""

from optlab.catalog._method import Method

__all__ = ["ROWS"]

_FAMILY = "transforms.matrix"

ROWS = (
    Method(
        name="auon",
        family=_FAMILY,
        symbol="optlab.transforms.matrix.auon",
        summary="Nesterov momentum over a root mean square of cosines",
        papers=("maity2025auon",),
        arguments={"learning_rate": 1e-2, "weight_decay": 0.1},
        variants={"unit_norm": {"unit_norm": True}},
        state_bytes=4.0,
        config="matrix_auon_tinyshakespeare.py",
    ),
    Method(
        name="hybrid_auon",
        family=_FAMILY,
        symbol="optlab.transforms.matrix.hybrid_auon",
        summary="AuON after Newton-Schulz steps: Muon without a factor for the shape",
        papers=("maity2025auon",),
        arguments={"learning_rate": 1e-2, "weight_decay": 0.1},
        state_bytes=4.0,
        config="matrix_hybrid_auon_tinyshakespeare.py",
    ),
    Method(
        name="muon",
        family=_FAMILY,
        symbol="optlab.transforms.matrix.muon",
        summary="orthogonalised momentum as its authors have it, and Adam for the rest",
        papers=("jordan2024muon",),
        arguments={"learning_rate": 1e-2, "weight_decay": 0.1},
        variants={
            "torch_layout": {"out_axis": "first", "as_released": True},
        },
        state_bytes=4.0,
        config="matrix_muon_tinyshakespeare.py",
    ),
)
