"""Implicit differentiation: any solver, any optimality condition."""

from optlab.implicit import conditions, projections, prox
from optlab.implicit._argmin import MinimizeInfo, argmin, minimize
from optlab.implicit._least_squares import least_squares
from optlab.implicit._quadratic_program import QpInfo, quadratic_program
from optlab.implicit._root import custom_fixed_point, custom_root, root_jvp, root_vjp

__all__ = [
    "MinimizeInfo",
    "QpInfo",
    "argmin",
    "conditions",
    "custom_fixed_point",
    "custom_root",
    "least_squares",
    "minimize",
    "projections",
    "prox",
    "quadratic_program",
    "root_jvp",
    "root_vjp",
]
