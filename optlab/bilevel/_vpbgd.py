"""V-PBGD: one descent in both variables, penalised by how far the inner problem is from solved."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import value_at
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

__all__ = ["VpbgdState", "vpbgd"]


class VpbgdState(NamedTuple):
    """State of :func:`vpbgd`."""

    count: jax.Array  # steps taken; shape=(), dtype=int32
    x: PyTree  # outer variable
    y: PyTree  # inner variable
    outer_optimizer: optax.OptState  # of x
    inner_optimizer: optax.OptState  # of y


def vpbgd(
    outer: Callable,
    inner: Callable,
    *,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    value_optimizer: optax.GradientTransformation,
    multiplier: optax.ScalarOrSchedule,
    value_steps: int = 1,
    penalize: str = "value",
    project_outer: Project = identity,
    project_inner: Project = identity,
) -> Solver:
    r"""Penalty-based bilevel gradient descent.

    .. math::
        \min_{x, y} f(x, y) + \gamma_t \big(g(x, y) - g(x, w)\big), \qquad
        w \approx \arg\min_w g(x, w)

    where w comes from y by a few inner steps, and counts as constant; or, with
    ``penalize="gradient"`` (G-PBGD), :math:`\gamma_t \|g_y(x, y)\|^2` in place of the gap. The
    solutions are those of the bilevel problem up to :math:`O(1 / \gamma)`, if every stationary
    point of g in y is a minimum.

    Args:
        outer: f, a function ``(x, y, batch) -> scalar``.
        inner: g, likewise.
        outer_optimizer: any optax transformation, for x; its steps should shrink like
            :math:`1 / \gamma`.
        inner_optimizer: for y, likewise.
        value_optimizer: for w; it starts anew in each step.
        multiplier: :math:`\gamma_t \ge 0`, a number or a schedule of the step count.
        value_steps: from y to w, at least 1.
        penalize: "value" or "gradient".
        project_outer: onto the set in which x is kept.
        project_inner: onto the set in which y and w are kept.

    Returns:
        The solver; its info is a :class:`BilevelInfo`. The key is not used.

    Raises:
        ValueError: if an argument is out of range, a loss is no scalar, or a batch's leaves differ
            in their leading size.

    >>> f, g = lambda x, y, b: (y - 1) ** 2, lambda x, y, b: (y - 2 * x) ** 2
    >>> sgd = optax.sgd(0.01)
    >>> solver = vpbgd(f, g, outer_optimizer=sgd, inner_optimizer=sgd,
    ...                value_optimizer=optax.sgd(0.5), multiplier=10.0)
    >>> state = solver.init(jax.random.key(0), jnp.array(0.0), jnp.array(0.0))
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=2000)
    >>> round(float(state.x), 3)
    0.5

    References:
        H. Shen, Q. Xiao, T. Chen, "On Penalty-based Bilevel Gradient Descent Method", ICML 2023,
        arXiv:2302.05185

    Differs from the released code: derivatives are automatic; those of its toy problem are wrong.
    """
    check_range("multiplier", multiplier, 0.0, float("inf"))
    check_count("value_steps", value_steps, 1)
    if penalize not in ("value", "gradient"):
        raise ValueError(f"penalize must be 'value' or 'gradient', got {penalize!r}.")

    def init(key, x, y):
        del key
        x, y = start(x, y, project_outer, project_inner)
        return VpbgdState(
            jnp.zeros((), jnp.int32), x, y, outer_optimizer.init(x), inner_optimizer.init(y)
        )

    def step(state, outer_batch, inner_batch, **extra):
        del extra
        check_objectives(outer, inner, state.x, state.y, outer_batch, inner_batch)
        gamma = value_at(multiplier, state.count)
        w = None
        if penalize == "value":
            w = solve_inner(
                inner,
                state.x,
                state.y,
                inner_batch,
                optimizer=value_optimizer,
                steps=value_steps,
                project=project_inner,
            )

        def objective(x, y):
            if penalize == "value":
                gap = inner(x, y, inner_batch) - inner(x, w, inner_batch)
            else:
                gap = optax.tree.norm(jax.grad(inner, argnums=1)(x, y, inner_batch), squared=True)
            return outer(x, y, outer_batch) + gamma * gap

        along_x, along_y = jax.grad(objective, argnums=(0, 1))(state.x, state.y)
        x, x_state = advance(
            outer_optimizer, along_x, state.outer_optimizer, state.x, project_outer
        )
        y, y_state = advance(
            inner_optimizer, along_y, state.inner_optimizer, state.y, project_inner
        )
        info = report(along_x, along_y)
        return VpbgdState(optax.safe_increment(state.count), x, y, x_state, y_state), info

    return Solver(init, step)
