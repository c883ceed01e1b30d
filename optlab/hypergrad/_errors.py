"""Estimates of how wrong a hypergradient is, from a few Hessian-vector products."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optlab.base import PyTree, Scalar

__all__ = [
    "adjoint_error",
    "inner_error",
    "krylov_error",
    "memory_error",
    "ratio",
    "response_error",
    "verdict",
]

# The smallest eigenvalue lies below the quotient of v: twice, where float32 ends the progress.
_MARGIN = 3.0


def ratio(a: Scalar, b: Scalar) -> Scalar:
    """Gives ``a / b``: zero where a is, infinite where only b is; NaN passes."""
    return jnp.where(a == 0, jnp.zeros_like(a), a / b)


def verdict(error: Scalar, tolerance: float | None) -> jax.Array:
    """Whether an error is not known to be within the tolerance; an unknown one is NaN."""
    return ~(error <= (0.0 if tolerance is None else tolerance))


def adjoint_error(product: Callable, b: PyTree, v: PyTree) -> tuple[Scalar, Scalar]:
    r"""Measures how far v is from solving ``A v = b``, by two products.

    With :math:`r = b - A v` the error is :math:`A^{-1} r`, at most :math:`\|r\|` over the smallest
    eigenvalue. That is not known, but Rayleigh quotients come near it: the one of v, for a solution
    leans to small eigenvalues, and that of r, for what an iteration leaves over lies where it is
    slow. Hence

    .. math::
        \frac{\|v - A^{-1} b\|}{\|v\|} \approx \frac{\|r\|}{\mu \|v\|}, \qquad
        \mu = \min\Big(\frac{v^\top A v}{\|v\|^2}, \frac{r^\top A r}{\|r\|^2}\Big)

    Args:
        product: v -> A v.
        b: the right-hand side.
        v: the approximate solution, like ``b``.

    Returns:
        The relative residual, and the estimated relative error; infinite at negative curvature.
    """
    av = product(v)
    r = optax.tree.sub(b, av)
    square_v, square_r = optax.tree.vdot(v, v), optax.tree.vdot(r, r)
    curvature = jnp.minimum(
        ratio(optax.tree.vdot(v, av), square_v),
        jnp.where(square_r == 0, jnp.inf, ratio(optax.tree.vdot(r, product(r)), square_r)),
    )
    size_r = jnp.sqrt(square_r)
    error = ratio(size_r, jnp.maximum(curvature, 0) * jnp.sqrt(square_v))
    return ratio(size_r, optax.tree.norm(b)), error


def krylov_error(b: PyTree, v: PyTree, residual: Scalar) -> Scalar:
    r"""Gives :func:`adjoint_error` without products, from the residual's norm alone.

    What a Krylov method leaves over lies on large eigenvalues rather than on small ones, so that
    the quotient of v is the smaller; and :math:`v^\top A v \ge v^\top b - \|v\| \|r\|`.

    Args:
        b: the right-hand side.
        v: the approximate solution, like ``b``.
        residual: its relative residual.

    Returns:
        The estimated relative error; infinite where the curvature may not be positive.
    """
    size_r, size_v = residual * optax.tree.norm(b), optax.tree.norm(v)
    curvature = ratio(optax.tree.vdot(v, b) - size_v * size_r, size_v * size_v)
    return _MARGIN * ratio(size_r, jnp.maximum(curvature, 0) * size_v)


def memory_error(at: Any, memory: PyTree, hypergradient: PyTree) -> Scalar:
    r"""Estimates what unrolled steps lack, from the adjoint that is left at their start.

    Backpropagation through gradient steps sums the Neumann series of the adjoint, and what arrives
    at the start is the residual r of that sum: :math:`g_{xy} g_{yy}^{-1} r` is missing. It lies
    where the steps are slow, so that its Rayleigh quotient stands for the Hessian.

    Args:
        at: derivatives at the end of the steps.
        memory: the cotangent of the start, like y.
        hypergradient: what backpropagation gave, like x.

    Returns:
        The error relative to the hypergradient; infinite at negative curvature. One product.
    """
    curvature = ratio(optax.tree.vdot(memory, at.hessian(memory)), optax.tree.vdot(memory, memory))
    missing = optax.tree.norm(at.cross(memory))
    return ratio(missing, jnp.maximum(curvature, 0) * optax.tree.norm(hypergradient))


def response_error(
    at: Any, pull: Callable[[PyTree], PyTree], hypergradient: PyTree
) -> tuple[Scalar, Scalar]:
    r"""Measures how far a Jacobian :math:`U \approx dy^*/dx` is from solving its equation.

    The equation is :math:`g_{yy} U = -g_{yx}`; what counts of its residual
    :math:`R = g_{yx} + g_{yy} U` is :math:`R^\top f_y`, and the power step
    :math:`R^\top g_{yy} f_y` says on which eigenvalues that lies.

    Args:
        at: derivatives at ``(x, y)``.
        pull: ``w -> U^T w``, from trees like y to trees like x.
        hypergradient: like x.

    Returns:
        The relative residual, and the estimated error relative to the hypergradient. Two products.
    """
    hb = at.hessian(at.outer_y)
    hhb = at.hessian(hb)
    rest = optax.tree.norm(optax.tree.add(at.cross(at.outer_y), pull(hb)))
    power = optax.tree.norm(optax.tree.add(at.cross(hb), pull(hhb)))
    residual = ratio(rest, optax.tree.norm(at.cross(at.outer_y)))
    return residual, ratio(rest * rest, power * optax.tree.norm(hypergradient))


def inner_error(at: Any, y: PyTree) -> Scalar:
    """Estimates how far y is from the inner solution, relative to y, by one product.

    Args:
        at: derivatives at ``(x, y)``.
        y: inner variables.

    Returns:
        The gradient's norm over its Rayleigh quotient and the norm of y.
    """
    g = at.inner_y
    curvature = ratio(optax.tree.vdot(g, at.hessian(g)), optax.tree.vdot(g, g))
    return ratio(optax.tree.norm(g), jnp.maximum(curvature, 0) * optax.tree.norm(y))
