"""Nonlinear least squares as a layer: many small problems at once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from optlab._checks import check_count, check_range
from optlab.base import PyTree
from optlab.implicit._root import custom_root
from optlab.implicit.conditions import gauss_newton

__all__ = ["least_squares"]


def least_squares(
    residuals: Callable[..., PyTree],
    *,
    max_steps: int = 50,
    tol: Any | None = None,
    damping: float = 1e-3,
    **options: Any,
) -> Callable[..., PyTree]:
    r"""Gives :math:`x^*(\theta) = \arg\min_x \tfrac12 \|r(x, \theta)\|^2`, differentiable.

    Levenberg-Marquardt steps, :math:`(J^\top J + \mu I)\, \delta = -J^\top r`, with :math:`\mu`
    falling tenfold after a step that gains and growing fourfold after one that does not. Dense and
    small: a layer that imposes hard constraints is one such solve an expert, under ``vmap``, and on
    a mesh each device solves its own experts. Where the mesh axis is explicit, the layer goes under
    :func:`jax.sharding.auto_axes`: jax's vmap cannot map a loop along such an axis.

    Args:
        residuals: r, ``residuals(x, *args)``, a pytree of any shape.
        max_steps: bound of the steps.
        tol: bound of :math:`\|J^\top r\|_\infty`; None is 1e-10 in float64 and 1e-5 in float32.
        damping: the first :math:`\mu`, in units of the largest diagonal entry of
            :math:`J^\top J`.
        **options: of :func:`~optlab.implicit.custom_root`.

    Returns:
        ``solve(init, *args)``, like ``init``.

    Raises:
        ValueError: if a number is out of range.

    >>> solve = least_squares(lambda x, t: x * x - t)
    >>> float(jax.grad(solve, argnums=1)(1.0, 4.0).round(4))
    0.25

    References:
        D. Marquardt, "An Algorithm for Least-Squares Estimation of Nonlinear Parameters", J. SIAM
        1963; N. Chalapathi, Y. Du, A. Krishnapriyan, "Scaling Physics-Informed Hard Constraints
        with Mixture-of-Experts", ICLR 2024, arXiv:2402.13412 (the layer)
    """
    check_count("max_steps", max_steps, 1)
    check_range("tol", tol, 0.0, float("inf"))
    check_range("damping", damping, 0.0, float("inf"), closed="()")
    options = {"linear_solver": "lu", **options}

    @custom_root(gauss_newton(residuals), **options)
    def solve(init, *args, **kwargs):
        start, unravel = ravel_pytree(init)
        goal = tol if tol is not None else (1e-10 if start.dtype == jnp.float64 else 1e-5)

        def flat(x):
            return ravel_pytree(residuals(unravel(x), *args, **kwargs))[0]

        def measure(x):
            r, jacobian = flat(x), jax.jacfwd(flat)(x)
            return jnp.vdot(r, r), jacobian.T @ r, jacobian.T @ jacobian

        def unfinished(carry):
            _, (_, gradient, _), mu, step = carry
            # A mu beyond bounds: no step gains any more.
            return (step < max_steps) & (jnp.max(jnp.abs(gradient)) > goal) & (mu < 1e12)

        def advance(carry):
            x, (loss, gradient, normal), mu, step = carry
            scale = jnp.max(jnp.diag(normal)) + jnp.finfo(x.dtype).tiny
            damped = normal + mu * scale * jnp.eye(x.size, dtype=x.dtype)
            new = x - jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(damped), gradient)
            found = measure(new)
            # Near the end the loss is flat to rounding while the gradient still falls.
            gains = found[0] <= loss * (1 + 8 * jnp.finfo(x.dtype).eps)
            x, kept = jax.tree.map(
                lambda new, old: jnp.where(gains, new, old), (new, found), (x, carry[1])
            )
            return x, kept, jnp.where(gains, 0.1 * mu, 4 * mu), step + 1

        mu = jnp.array(damping, start.dtype)
        carry = (start, measure(start), mu, jnp.zeros((), jnp.int32))
        return unravel(jax.lax.while_loop(unfinished, advance, carry)[0])

    return solve
