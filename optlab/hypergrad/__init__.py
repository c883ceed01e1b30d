"""Hypergradients: one function an estimator, all of one signature."""

from optlab.hypergrad._best_response import best_response
from optlab.hypergrad._estimator import Estimator, HypergradientInfo
from optlab.hypergrad._evolution import evolution, persistent_evolution
from optlab.hypergrad._finite_difference import finite_difference
from optlab.hypergrad._fixed_point import fixed_point
from optlab.hypergrad._implicit import cg, exact, gmres
from optlab.hypergrad._neumann import neumann
from optlab.hypergrad._nystrom import nystrom
from optlab.hypergrad._one_step import identity, one_step
from optlab.hypergrad._penalty import penalty
from optlab.hypergrad._rank_one import rank_one
from optlab.hypergrad._unrolled import unrolled

__all__ = [
    "Estimator",
    "HypergradientInfo",
    "best_response",
    "cg",
    "evolution",
    "exact",
    "finite_difference",
    "fixed_point",
    "gmres",
    "identity",
    "neumann",
    "nystrom",
    "one_step",
    "penalty",
    "persistent_evolution",
    "rank_one",
    "unrolled",
]
