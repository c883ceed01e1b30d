"""Hypergradients of the fixed point of a contraction."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._checks import check_count, check_like, check_range
from optlab.base import PyTree
from optlab.hypergrad._errors import adjoint_error, verdict
from optlab.hypergrad._estimator import (
    Estimator,
    HypergradientInfo,
    as_arrays,
    check_problem,
    resume,
)

__all__ = ["fixed_point"]


class FixedPointState(NamedTuple):
    """The last adjoint, from which the next iteration starts."""

    v: PyTree  # like y


def fixed_point(
    contraction: Callable,
    *,
    max_steps: int = 100,
    rtol: float = 1e-6,
    tolerance: float | None = 1e-2,
) -> Estimator:
    r"""Differentiates the fixed point of any contraction by iterating its adjoint.

    .. math::
        y = T(x, y), \qquad v \leftarrow T_y^\top v + f_y, \qquad h = f_x + T_x^\top v

    Of the inner objective nothing is used: the contraction says what y solves. With a gradient step
    for T it is the Neumann series; T may also be proximal, projected, or a layer.

    Args:
        contraction: ``(x, y, inner_batch) -> y``.
        max_steps: bound of the iterations, one product with :math:`T_y^\top` each.
        rtol: change of v, relative to the norm of :math:`f_y`, at which to stop.
        tolerance: relative error above which ``failed`` is set; None saves the two products of the
            check, and ``failed`` is then always set.

    Returns:
        The estimator. ``info.stationarity`` is the norm of ``T(x, y) - y``; the products are those
        with :math:`T_y^\top`.

    Raises:
        ValueError: if a number is out of range.
        TypeError: if ``contraction`` does not return a tree like y.

    >>> inner, outer = lambda x, y, b: (y - 3 * x) ** 2, lambda x, y, b: y**2
    >>> estimator = fixed_point(lambda x, y, b: 0.5 * y + 1.5 * x)
    >>> h, _ = estimator.estimate(outer, inner, 1.0, 3.0, None, None)
    >>> round(float(h), 4)
    18.0

    References:
        R. Grazzi, L. Franceschi, M. Pontil, S. Salzo, "On the Iteration Complexity of Hypergradient
        Computation", ICML 2020, arXiv:2006.16218
    """
    check_count("max_steps", max_steps, 1)
    check_range("rtol", rtol, 0.0, float("inf"))
    check_range("tolerance", tolerance, 0.0, float("inf"), closed="()")

    def init(x, y):
        del x
        return FixedPointState(optax.tree.zeros_like(y))

    def estimate(outer, inner, x, y, outer_batch, inner_batch, *, key=None, state=None):
        del inner, key
        x, y = as_arrays(x), as_arrays(y)
        state = resume(init, x, y, state)
        check_problem(outer, None, x, y, outer_batch, inner_batch)
        outer_x, outer_y = jax.grad(outer, argnums=(0, 1))(x, y, outer_batch)
        image, pull = jax.vjp(lambda x, y: contraction(x, y, inner_batch), x, y)
        check_like("contraction(x, y, inner_batch)", image, "y", y)
        threshold = rtol * optax.tree.norm(outer_y)

        def unfinished(carry):
            _, change, count = carry
            return (count < max_steps) & (change > threshold)

        def step(carry):
            v, _, count = carry
            new = optax.tree.add(outer_y, pull(v)[1])
            return new, optax.tree.norm(optax.tree.sub(new, v)), count + 1

        start = (state.v, jnp.full_like(threshold, jnp.inf), jnp.zeros((), jnp.int32))
        v, _, products = jax.lax.while_loop(unfinished, step, start)
        hypergradient = optax.tree.add(outer_x, pull(v)[0])
        residual = error = jnp.full_like(threshold, jnp.nan)
        if tolerance is not None:
            residual, error = adjoint_error(lambda p: optax.tree.sub(p, pull(p)[1]), outer_y, v)
            products += 2
        return hypergradient, HypergradientInfo(
            residual=residual,
            error=error,
            failed=verdict(error, tolerance),
            products=products,
            stationarity=optax.tree.norm(optax.tree.sub(image, y)),
            y=y,
            state=FixedPointState(v),
        )

    return Estimator(init, estimate)
