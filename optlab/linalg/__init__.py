"""Linear algebra that jax and lineax lack."""

from optlab.linalg._dct import dct_basis
from optlab.linalg._deep_conjugate_direction import (
    deep_conjugate_direction,
    direction_loss,
    ritz_samples,
)
from optlab.linalg._inverse_fisher import InverseFisher, inverse_fisher
from optlab.linalg._krylov_recycling import (
    RecycledSpace,
    krylov_recycling,
    recycled_space,
    similarity_order,
)
from optlab.linalg._newton_schulz import newton_schulz, orthogonal_factor
from optlab.linalg._norms import global_norm, normalize, safe_norm
from optlab.linalg._solve import Gmres, LinearInfo, Neumann, Nystrom, NystromPcg, solve
from optlab.linalg._tuned_sor import TunedSor, TunedSorState, sor, tuned_sor

__all__ = [
    "Gmres",
    "InverseFisher",
    "LinearInfo",
    "Neumann",
    "Nystrom",
    "NystromPcg",
    "RecycledSpace",
    "TunedSor",
    "TunedSorState",
    "dct_basis",
    "deep_conjugate_direction",
    "direction_loss",
    "global_norm",
    "inverse_fisher",
    "krylov_recycling",
    "newton_schulz",
    "normalize",
    "orthogonal_factor",
    "recycled_space",
    "ritz_samples",
    "safe_norm",
    "similarity_order",
    "solve",
    "sor",
    "tuned_sor",
]
