"""Conditions of equations and of least squares."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from optlab import linalg
from optlab.base import PyTree
from optlab.implicit.conditions._condition import Condition, stationarity

__all__ = ["gauss_newton", "newton"]


def newton(equation: Callable[..., PyTree], *, method: str = "lu") -> Condition:
    r"""Newton's step is zero: :math:`F = -(\partial G)^{-1} G(x)`.

    It has the roots and the derivatives of G, and at a root the Jacobian :math:`-I`: the equation
    is preconditioned, at the price of a solve inside the condition.

    Args:
        equation: G, ``equation(x, *args)``, like x.
        method: of :func:`optlab.linalg.solve`.

    Returns:
        The condition.

    >>> F = newton(lambda x, t: x * x - t)
    >>> float(F(jnp.array(4.0), 8.0))
    -1.0

    References:
        M. Blondel et al., "Efficient and Modular Implicit Differentiation", NeurIPS 2022,
        arXiv:2105.15183, equation 14
    """

    def residual(x, *args, **kwargs):
        value, jacobian = jax.linearize(lambda x: equation(x, *args, **kwargs), x)
        return linalg.solve(jacobian, optax.tree.scale(-1, value), method=method)[0]

    return Condition(residual)


def gauss_newton(residuals: Callable[..., PyTree]) -> Condition:
    r"""Of nonlinear least squares: :math:`F = \partial r^\top r`, the gradient of half of |r|^2.

    Args:
        residuals: r, ``residuals(x, *args)``, a pytree of any shape.

    Returns:
        The condition; its Jacobian, the full Hessian, is symmetric.

    >>> F = gauss_newton(lambda x, t: jnp.stack([x - t, x]))
    >>> float(F(1.0, 2.0))
    0.0

    References:
        M. Blondel et al., "Efficient and Modular Implicit Differentiation", NeurIPS 2022,
        arXiv:2105.15183
    """

    def half_square(x, *args, **kwargs):
        values = jax.tree.leaves(residuals(x, *args, **kwargs))
        return 0.5 * sum(jnp.sum(r * r) for r in values)

    return stationarity(half_square)
