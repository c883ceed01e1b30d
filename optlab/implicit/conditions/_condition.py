"""What an optimality condition is: a map, and whether its Jacobian is symmetric."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

from optlab.base import PyTree

__all__ = ["Condition", "fixed_point", "stationarity"]


@dataclasses.dataclass(frozen=True)
class Condition:
    """A map F with ``F(x, *args) = 0`` at a solution x, like x; call it as a function.

    ``symmetric`` says that the Jacobian in x is a Hessian, which the default linear solver wants to
    know. ``check(x, *args)`` raises where x cannot be a solution; it is called outside ``jit``.
    """

    residual: Callable[..., PyTree]
    symmetric: bool = False
    check: Callable[..., None] | None = None

    def __call__(self, x: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        return self.residual(x, *args, **kwargs)


def stationarity(fun: Callable[..., Any], *, has_aux: bool = False) -> Condition:
    r"""The gradient vanishes: :math:`F(x, \theta) = \nabla_x f(x, \theta)`.

    Args:
        fun: ``fun(x, *args)``, a scalar.
        has_aux: ``fun`` returns ``(value, aux)``.

    Returns:
        The condition; its Jacobian, a Hessian, is symmetric.

    >>> F = stationarity(lambda x, t: 0.5 * (x - t) ** 2)
    >>> float(F(3.0, 1.0))
    2.0

    References:
        M. Blondel et al., "Efficient and Modular Implicit Differentiation", NeurIPS 2022,
        arXiv:2105.15183, table 1
    """
    gradient = jax.grad(fun, has_aux=has_aux)

    def residual(x, *args, **kwargs):
        got = gradient(x, *args, **kwargs)
        return got[0] if has_aux else got

    return Condition(residual, symmetric=True)


def fixed_point(step: Callable[..., PyTree]) -> Condition:
    r"""A map leaves the point where it is: :math:`F(x, \theta) = T(x, \theta) - x`.

    Of deep equilibrium models, Sinkhorn's scaling, and any solver's own iteration.

    Args:
        step: T, ``step(x, *args)``, like x.

    Returns:
        The condition.

    >>> F = fixed_point(lambda x, t: 0.5 * x + t)
    >>> float(F(2.0, 1.0))
    0.0

    References:
        S. Bai, J. Kolter, V. Koltun, "Deep Equilibrium Models", NeurIPS 2019, arXiv:1909.01377
    """

    def residual(x, *args, **kwargs):
        return optax.tree.sub(step(x, *args, **kwargs), x)

    return Condition(residual)
