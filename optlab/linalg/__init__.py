"""Linear algebra that jax and lineax lack."""

from optlab.linalg._dct import dct_basis
from optlab.linalg._inverse_fisher import InverseFisher, inverse_fisher
from optlab.linalg._newton_schulz import newton_schulz, orthogonal_factor
from optlab.linalg._norms import global_norm, normalize, safe_norm
from optlab.linalg._solve import Gmres, LinearInfo, Neumann, Nystrom, NystromPcg, solve

__all__ = [
    "Gmres",
    "InverseFisher",
    "LinearInfo",
    "Neumann",
    "Nystrom",
    "NystromPcg",
    "dct_basis",
    "global_norm",
    "inverse_fisher",
    "newton_schulz",
    "normalize",
    "orthogonal_factor",
    "safe_norm",
    "solve",
]
