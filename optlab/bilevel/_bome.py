"""BOME: descends the outer objective while the inner value falls, by a dynamic barrier."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._checks import check_count, check_range
from optlab.base import PyTree, Solver
from optlab.bilevel._common import (
    Project,
    advance,
    check_objectives,
    identity,
    report,
    solve_inner,
    start,
)

__all__ = ["BomeState", "bome"]


class BomeState(NamedTuple):
    """State of :func:`bome`."""

    x: PyTree  # outer variable
    y: PyTree  # inner variable
    outer_optimizer: optax.OptState  # of x
    inner_optimizer: optax.OptState  # of y


def bome(
    outer: Callable,
    inner: Callable,
    *,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    value_optimizer: optax.GradientTransformation,
    value_steps: int = 10,
    barrier: float = 0.5,
    barrier_of: str = "gradient",
    project_outer: Project = identity,
    project_inner: Project = identity,
) -> Solver:
    r"""Bilevel optimization made easy: first-order, with the inner problem as a constraint.

    .. math::
        q(x, y) = g(x, y) - g(x, w), \qquad
        d = \nabla f + \max\Big(\frac{\varphi - \langle \nabla f, \nabla q\rangle}
            {\|\nabla q\|^2}, 0\Big) \nabla q

    over both variables together, where w comes from y by some inner steps and counts as constant,
    and :math:`\varphi` is :math:`\eta \|\nabla q\|^2` or :math:`\eta q`: d is the direction nearest
    to :math:`\nabla f` along which q falls at least at that rate.

    Args:
        outer: f, a function ``(x, y, batch) -> scalar``.
        inner: g, likewise; its solution need not be unique.
        outer_optimizer: any optax transformation, for x.
        inner_optimizer: for y.
        value_optimizer: for w; it starts anew in each step.
        value_steps: from y to w, at least 1.
        barrier: :math:`\eta > 0`.
        barrier_of: "gradient" for :math:`\|\nabla q\|^2`, "value" for q.
        project_outer: onto the set in which x is kept.
        project_inner: onto the set in which y is kept.

    Returns:
        The solver; its info is a :class:`BilevelInfo`. The key is not used.

    Raises:
        ValueError: if an argument is out of range, a loss is no scalar, or a batch's leaves differ
            in their leading size.

    >>> f, g = lambda x, y, b: (y - 1) ** 2, lambda x, y, b: (y - 2 * x) ** 2
    >>> sgd = optax.sgd(0.05)
    >>> solver = bome(f, g, outer_optimizer=sgd, inner_optimizer=sgd,
    ...               value_optimizer=optax.sgd(0.3))
    >>> state = solver.init(jax.random.key(0), jnp.array(0.0), jnp.array(0.0))
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=400)
    >>> round(float(state.x), 2)
    0.5

    References:
        M. Ye, B. Liu, S. Wright, P. Stone, Q. Liu, "BOME! Bilevel Optimization Made Easy: A Simple
        First-Order Approach", NeurIPS 2022, arXiv:2209.08709
    """
    check_count("value_steps", value_steps, 1)
    check_range("barrier", barrier, 0.0, float("inf"), closed="()")
    if barrier_of not in ("gradient", "value"):
        raise ValueError(f"barrier_of must be 'gradient' or 'value', got {barrier_of!r}.")

    def init(key, x, y):
        del key
        x, y = start(x, y, project_outer, project_inner)
        return BomeState(x, y, outer_optimizer.init(x), inner_optimizer.init(y))

    def step(state, outer_batch, inner_batch, **extra):
        del extra
        x, y = state.x, state.y
        check_objectives(outer, inner, x, y, outer_batch, inner_batch)

        w = solve_inner(
            inner,
            x,
            y,
            inner_batch,
            optimizer=value_optimizer,
            steps=value_steps,
            project=project_inner,
        )

        def gap(x, y):
            return inner(x, y, inner_batch) - inner(x, w, inner_batch)

        f = jax.grad(outer, argnums=(0, 1))(x, y, outer_batch)
        value, q = jax.value_and_grad(gap, argnums=(0, 1))(x, y)
        square = optax.tree.norm(q, squared=True)
        rate = barrier * (square if barrier_of == "gradient" else value)
        short = rate - optax.tree.vdot(f, q)
        weight = jnp.maximum(short / jnp.where(square > 0, square, 1.0), 0.0)
        # At a solution q and its gradient vanish together: nothing is left to push down.
        weight = jnp.where(square > 0, weight, 0.0)
        along_x, along_y = optax.tree.add_scale(f, weight, q)
        x, x_state = advance(outer_optimizer, along_x, state.outer_optimizer, x, project_outer)
        y, y_state = advance(inner_optimizer, along_y, state.inner_optimizer, y, project_inner)
        return BomeState(x, y, x_state, y_state), report(along_x, along_y)

    return Solver(init, step)
