"""Test problems whose optima are known in closed form."""

from optlab.problems._bilevel import RidgeBilevel, ridge_bilevel
from optlab.problems._quadratic_bilevel import QuadraticBilevel, quadratic_bilevel
from optlab.problems._smooth import Problem, distance, quadratic, rosenbrock

__all__ = [
    "Problem",
    "QuadraticBilevel",
    "RidgeBilevel",
    "distance",
    "quadratic",
    "quadratic_bilevel",
    "ridge_bilevel",
    "rosenbrock",
]
