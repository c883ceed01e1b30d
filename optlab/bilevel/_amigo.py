"""AmIGO: warm-started inner and linear steps, then an outer one."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from optlab._batches import nth_batch
from optlab._checks import check_count
from optlab.base import PyTree, Solver
from optlab.bilevel._common import (
    Project,
    advance,
    check_leading,
    check_objectives,
    identity,
    report,
    start,
)

__all__ = ["AmigoState", "amigo"]


class AmigoState(NamedTuple):
    """State of :func:`amigo`."""

    x: PyTree  # outer variable
    y: PyTree  # inner variable
    v: PyTree  # solution of the linear system, like y
    outer_optimizer: optax.OptState  # of x
    inner_optimizer: optax.OptState  # of y
    linear_optimizer: optax.OptState  # of v


def amigo(
    outer: Callable,
    inner: Callable,
    *,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    linear_optimizer: optax.GradientTransformation,
    inner_steps: int = 10,
    linear_steps: int | None = None,
    fresh_batches: bool = False,
    project_outer: Project = identity,
    project_inner: Project = identity,
) -> Solver:
    r"""Amortized implicit gradient optimization.

    .. math::
        y \leftarrow y - \rho\, g_y \;(T \text{ times}), \quad
        v \leftarrow v - \rho\, (g_{yy} v - f_y) \;(K \text{ times}), \quad
        x \leftarrow x - \gamma\, (f_x - g_{xy} v)

    Both y and v go on from where the last step left them: warm starts make up for stopping early,
    so that constant numbers of steps reach the rate of exact solves.

    ``state = solver.init(key, x, y)``; ``state, info = solver.step(state, outer_batch,
    inner_batch)``.

    Args:
        outer: f, a function ``(x, y, batch) -> scalar``.
        inner: g, likewise, strongly convex in y.
        outer_optimizer: any optax transformation, for x.
        inner_optimizer: for y.
        linear_optimizer: for v.
        inner_steps: T, at least 1.
        linear_steps: K, at least 1; None is T.
        fresh_batches: whether each inner and linear step has a batch of its own: the leaves of
            ``inner_batch`` then have a leading axis of T + K + 1, the last for x.
        project_outer: onto the set in which x is kept.
        project_inner: onto the set in which y is kept.

    Returns:
        The solver; its info is a :class:`BilevelInfo`. The key is not used.

    Raises:
        ValueError: if a number is out of range, a loss is no scalar, or a batch's leaves differ in
            their leading size.

    >>> f, g = lambda x, y, b: (y - 1) ** 2, lambda x, y, b: (y - 2 * x) ** 2
    >>> sgd = optax.sgd(0.1)
    >>> solver = amigo(f, g, outer_optimizer=sgd, inner_optimizer=sgd, linear_optimizer=sgd)
    >>> state = solver.init(jax.random.key(0), 0.0, 0.0)
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=50)
    >>> round(float(state.x), 3)
    0.5

    References:
        M. Arbel, J. Mairal, "Amortized Implicit Differentiation for Stochastic Bilevel
        Optimization", ICLR 2022, arXiv:2111.14580
    """
    linear_steps = inner_steps if linear_steps is None else linear_steps
    check_count("inner_steps", inner_steps, 1)
    check_count("linear_steps", linear_steps, 1)

    def init(key, x, y):
        del key
        x, y = start(x, y, project_outer, project_inner)
        v = optax.tree.zeros_like(y)
        optimizers = (outer_optimizer.init(x), inner_optimizer.init(y), linear_optimizer.init(v))
        return AmigoState(x, y, v, *optimizers)

    def step(state, outer_batch, inner_batch, **extra):
        del extra
        x = state.x

        def batch(t):
            return nth_batch(inner_batch, t, fresh_batches)

        if fresh_batches:
            turns = inner_steps + linear_steps + 1
            check_leading("inner_batch", inner_batch, turns, "one a step and one for x")
        check_objectives(outer, inner, x, state.y, outer_batch, batch(-1))

        def inner_step(t, carry):
            gradient = jax.grad(inner, argnums=1)(x, carry[0], batch(t))
            return advance(inner_optimizer, gradient, carry[1], carry[0], project_inner)

        start = (state.y, state.inner_optimizer)
        y, inner_state = jax.lax.fori_loop(0, inner_steps, inner_step, start)
        f_x, f_y = jax.grad(outer, argnums=(0, 1))(x, y, outer_batch)

        def residual(v, batch):
            gradient, product = jax.jvp(
                lambda y: jax.grad(inner, argnums=1)(x, y, batch), (y,), (v,)
            )
            return gradient, optax.tree.sub(product, f_y)

        def linear_step(t, carry):
            _, direction = residual(carry[0], batch(inner_steps + t))
            return advance(linear_optimizer, direction, carry[1], carry[0])

        start = (state.v, state.linear_optimizer)
        v, linear_state = jax.lax.fori_loop(0, linear_steps, linear_step, start)
        g_y, left = residual(v, batch(-1))
        cross = jax.grad(lambda x: optax.tree.vdot(jax.grad(inner, argnums=1)(x, y, batch(-1)), v))(
            x
        )
        hypergradient = optax.tree.sub(f_x, cross)
        x, outer_state = advance(
            outer_optimizer, hypergradient, state.outer_optimizer, x, project_outer
        )
        info = report(hypergradient, g_y, left)
        return AmigoState(x, y, v, outer_state, inner_state, linear_state), info

    return Solver(init, step)
