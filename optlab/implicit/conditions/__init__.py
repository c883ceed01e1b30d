"""Optimality conditions: maps F with F(x, *args) = 0 at a solution x."""

from optlab.implicit.conditions._condition import Condition, fixed_point, stationarity
from optlab.implicit.conditions._gradient_steps import (
    block_proximal_gradient,
    mirror_descent,
    projected_gradient,
    proximal_gradient,
)
from optlab.implicit.conditions._kkt import ConicPoint, KktPoint, conic_residual, kkt, qp
from optlab.implicit.conditions._newton import gauss_newton, newton

__all__ = [
    "Condition",
    "ConicPoint",
    "KktPoint",
    "block_proximal_gradient",
    "conic_residual",
    "fixed_point",
    "gauss_newton",
    "kkt",
    "mirror_descent",
    "newton",
    "projected_gradient",
    "proximal_gradient",
    "qp",
    "stationarity",
]
