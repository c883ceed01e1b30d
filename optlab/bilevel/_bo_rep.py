"""BO-REP: normalised momentum at the outer level, rare updates at the inner one."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._batches import nth_batch
from optlab._checks import check_count, check_range
from optlab._loops import repeat_up_to
from optlab.base import PyTree, Solver
from optlab.bilevel._common import (
    Project,
    advance,
    check_objectives,
    identity,
    report,
    start,
)
from optlab.transforms.sign import normalized_momentum

__all__ = ["BoRepState", "bo_rep"]


class BoRepState(NamedTuple):
    """State of :func:`bo_rep`."""

    count: jax.Array  # steps taken; shape=(), dtype=int32
    x: PyTree  # outer variable
    y: PyTree  # inner variable
    v: PyTree  # solution of the linear system, like y
    outer_optimizer: optax.OptState  # of x
    inner_optimizer: optax.OptState  # of y
    linear_optimizer: optax.OptState  # of v


def bo_rep(
    outer: Callable,
    inner: Callable,
    *,
    learning_rate: optax.ScalarOrSchedule,
    inner_optimizer: optax.GradientTransformation,
    linear_optimizer: optax.GradientTransformation,
    momentum: float = 0.9,
    period: int = 2,
    inner_steps: int = 10,
    refine_steps: int = 0,
    fresh_batches: bool = False,
    project_outer: Project = identity,
    project_inner: Project = identity,
) -> Solver:
    r"""Bilevel optimization with initialization refinement and periodic updates.

    .. math::
        v \leftarrow v - \nu\, (g_{yy} v - f_y), \quad
        m \leftarrow \beta m + (1 - \beta) (f_x - g_{xy} v), \quad
        x \leftarrow x - \eta \frac{m}{\|m\|}

    Every I-th step takes N inner steps first, and the very first one as many as refine y. It is for
    outer objectives whose smoothness grows with the gradient, such as those of recurrent networks:
    a normalised step cannot overshoot where the gradient is steep.

    ``state = solver.init(key, x, y)``; ``state, info = solver.step(state, outer_batch,
    inner_batch)``.

    Args:
        outer: f, a function ``(x, y, batch) -> scalar``.
        inner: g, likewise, strongly convex in y.
        learning_rate: :math:`\eta`, the length of an outer step, or a schedule of the step count.
        inner_optimizer: any optax transformation, for y.
        linear_optimizer: for v; a plain step of size :math:`\nu` in the paper.
        momentum: :math:`\beta` in [0, 1).
        period: I, at least 1.
        inner_steps: N, at least 1.
        refine_steps: inner steps before the first outer one; N of them at least.
        fresh_batches: whether each inner step has a batch of its own: the leaves of ``inner_batch``
            then have a leading axis, which the inner steps go through in turn; the last one serves
            the second derivatives.
        project_outer: onto the set in which x is kept.
        project_inner: onto the set in which y is kept.

    Returns:
        The solver; its info is a :class:`BilevelInfo`. The key is not used.

    Raises:
        ValueError: if a number is out of range, a loss is no scalar, or a batch's leaves differ in
            their leading size.

    >>> f, g = lambda x, y, b: (y - 1) ** 2, lambda x, y, b: (y - 2 * x) ** 2
    >>> solver = bo_rep(f, g, learning_rate=lambda t: 0.1 / (1 + t) ** 0.5,
    ...                 inner_optimizer=optax.sgd(0.2), linear_optimizer=optax.sgd(0.2))
    >>> state = solver.init(jax.random.key(0), jnp.array(0.0), jnp.array(0.0))
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=1000)
    >>> abs(float(state.x) - 0.5) < 0.02
    True

    References:
        J. Hao, X. Gong, M. Liu, "Bilevel Optimization under Unbounded Smoothness: A New Algorithm
        and Convergence Analysis", ICLR 2024, arXiv:2401.09587

    Differs from the paper: v has the opposite sign, that of :math:`g_{yy}^{-1} f_y`; any optimizer
    takes the steps of y and v. A momentum of zero does not move x.
    """
    check_range("learning_rate", learning_rate, 0.0, float("inf"))
    check_range("momentum", momentum, 0.0, 1.0)
    check_count("period", period, 1)
    check_count("inner_steps", inner_steps, 1)
    check_count("refine_steps", refine_steps, 0)
    outer_optimizer = normalized_momentum(learning_rate, b1=momentum, global_norm=True)

    def init(key, x, y):
        del key
        x, y = start(x, y, project_outer, project_inner)
        v = optax.tree.zeros_like(y)
        return BoRepState(
            count=jnp.zeros((), jnp.int32),
            x=x,
            y=y,
            v=v,
            outer_optimizer=outer_optimizer.init(x),
            inner_optimizer=inner_optimizer.init(y),
            linear_optimizer=linear_optimizer.init(v),
        )

    def step(state, outer_batch, inner_batch, **extra):
        del extra
        x = state.x
        last = nth_batch(inner_batch, -1, fresh_batches)
        check_objectives(outer, inner, x, state.y, outer_batch, last)
        leaves = jax.tree.leaves(inner_batch)
        rows = leaves[0].shape[0] if fresh_batches and leaves else 1

        def inner_step(t, carry):
            y, optimizer = carry
            batch = nth_batch(inner_batch, t % rows, fresh_batches)
            gradient = jax.grad(inner, argnums=1)(x, y, batch)
            return advance(inner_optimizer, gradient, optimizer, y, project_inner)

        due = jnp.where(state.count % period == 0, inner_steps, 0)
        most = max(refine_steps, inner_steps)
        due = jnp.where(state.count == 0, most, due)
        y, inner_state = repeat_up_to(most, due, inner_step, (state.y, state.inner_optimizer))

        f_x, f_y = jax.grad(outer, argnums=(0, 1))(x, y, outer_batch)
        g_y, pull = jax.vjp(lambda x, y: jax.grad(inner, argnums=1)(x, y, last), x, y)
        cross, product = pull(state.v)
        residual, hypergradient = optax.tree.sub(product, f_y), optax.tree.sub(f_x, cross)
        v, linear_state = advance(linear_optimizer, residual, state.linear_optimizer, state.v)
        x, outer_state = advance(
            outer_optimizer, hypergradient, state.outer_optimizer, x, project_outer
        )
        info = report(hypergradient, g_y, residual)
        count = optax.safe_increment(state.count)
        return BoRepState(count, x, y, v, outer_state, inner_state, linear_state), info

    return Solver(init, step)
