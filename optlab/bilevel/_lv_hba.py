"""LV-HBA: a constrained inner problem, without second derivatives, in one loop."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import value_at
from optlab._checks import check_floats, check_range
from optlab.base import PyTree, Solver
from optlab.bilevel._common import (
    advance,
    check_objectives,
    check_projection,
    fresh,
    report,
)

__all__ = ["LvHbaState", "lv_hba"]


class LvHbaState(NamedTuple):
    """State of :func:`lv_hba`."""

    count: jax.Array  # steps taken; shape=(), dtype=int32
    x: PyTree  # outer variable
    y: PyTree  # inner variable
    z: jax.Array  # centre of the multipliers, like the constraints
    theta: PyTree  # saddle point of the regularised Lagrangian, like y
    multipliers: jax.Array  # its multipliers, like the constraints
    outer_optimizer: optax.OptState  # of x
    inner_optimizer: optax.OptState  # of y


def lv_hba(
    outer: Callable,
    inner: Callable,
    constraint: Callable,
    *,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    saddle_rate: float,
    center_rate: float,
    outer_weight: optax.ScalarOrSchedule,
    gamma1: float = 10.0,
    gamma2: float = 10.0,
    radius: float = 1000.0,
    equality: bool = False,
    project: Callable = lambda point: point,
) -> Solver:
    r"""Lagrangian-value-function-based, Hessian-free bilevel algorithm.

    The inner problem, min over y of g subject to :math:`c(x, y) \le 0`, is replaced by the
    inequality between g and the value of a regularised saddle problem,

    .. math::
        v(x, y, z) = \min_\theta \max_\lambda g(x, \theta) + \lambda^\top c(x, \theta)
            + \frac{\|\theta - y\|^2}{2 \gamma_1} - \frac{\|\lambda - z\|^2}{2 \gamma_2}

    A step moves :math:`(\theta, \lambda)` once, and then, with :math:`c_k` growing slowly,

    .. math::
        d_x = \frac{f_x}{c_k} + g_x(x, y) - g_x(x, \theta) - \lambda^\top c_x(x, \theta), \quad
        d_y = \frac{f_y}{c_k} + g_y(x, y) - \frac{y - \theta}{\gamma_1}, \quad
        z \leftarrow z + \beta \frac{\lambda - z}{\gamma_2}

    Args:
        outer: f, a function ``(x, y, batch) -> scalar``.
        inner: g, likewise, convex in y; its solutions need not be unique.
        constraint: c, a function ``(x, y) -> array``, convex in y; scale it so that its derivatives
            are of order one.
        outer_optimizer: any optax transformation, for x.
        inner_optimizer: for y.
        saddle_rate: step size of :math:`\theta` and :math:`\lambda`.
        center_rate: :math:`\beta`.
        outer_weight: :math:`c_k`, a number or a schedule of the step count, such as
            ``lambda k: 10 * (k + 1) ** 0.3``.
        gamma1: :math:`\gamma_1 > 0`.
        gamma2: :math:`\gamma_2 > 0`.
        radius: bound of z, of either sign for equalities.
        equality: whether the constraint is :math:`c(x, y) = 0`.
        project: a function ``(x, y) -> (x, y)`` of the pair, onto the points that meet the
            constraint.

    Returns:
        The solver; its info is a :class:`BilevelInfo`, whose ``linear_norm`` is the violation of
        the constraint at the new point. The key is not used.

    Raises:
        ValueError: if a number is out of range, ``constraint`` gives no array of floats or is not
            met at the projected start, a loss is no scalar, or a batch's leaves differ in their
            leading size.

    >>> f, g = lambda x, y, b: (x - 2) ** 2 + (y - 2) ** 2, lambda x, y, b: (y - x) ** 2
    >>> solver = lv_hba(f, g, lambda x, y: y - 1.0, outer_optimizer=optax.sgd(0.05),
    ...                 inner_optimizer=optax.sgd(0.05), saddle_rate=0.05, center_rate=0.05,
    ...                 outer_weight=lambda k: (k + 1) ** 0.3,
    ...                 project=lambda p: (p[0], jnp.minimum(p[1], 1.0)))
    >>> state = solver.init(jax.random.key(0), jnp.array(0.0), jnp.array(0.0))
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=2000)
    >>> abs(float(state.x) - 2.0) < 0.1, float(state.y)
    (True, 1.0)

    References:
        W. Yao, C. Yu, S. Zeng, J. Zhang, "Constrained Bi-Level Optimization: Proximal Lagrangian
        Value Function Approach and Hessian-free Algorithm", ICLR 2024, arXiv:2401.16164

    Differs from the released code: a batch, any optimizer for x and y, and in its support-vector
    example the upper gradient is never applied. Its toy diverges at its defaults; the tests scale
    the constraint.
    """
    rates = {"saddle_rate": saddle_rate, "center_rate": center_rate, "outer_weight": outer_weight}
    for name, value in rates.items():
        check_range(name, value, 0.0, float("inf"), closed="()")
    for name, value in (("gamma1", gamma1), ("gamma2", gamma2), ("radius", radius)):
        check_range(name, value, 0.0, float("inf"), closed="()")
    lowest = -radius if equality else 0.0

    def lagrangian(x, theta, multipliers, batch):
        return inner(x, theta, batch) + jnp.sum(multipliers * constraint(x, theta))

    def violation(x, y):
        """The largest, of all constraints."""
        values = constraint(x, y)
        return jnp.max(jnp.abs(values) if equality else jnp.maximum(values, 0.0), initial=0.0)

    def init(key, x, y):
        del key
        check_floats("x", x)
        check_floats("y", y)
        x, y = fresh(x), fresh(y)
        check_projection("project", project, "pair", (x, y))
        x, y = project((x, y))
        shape = jax.eval_shape(constraint, x, y)
        if not jnp.issubdtype(getattr(shape, "dtype", jnp.int32), jnp.floating):
            raise ValueError(f"constraint must give one array of floats, got {shape}.")
        missed = violation(x, y)
        # Of large numbers, a projection misses by their rounding.
        allowed = jnp.finfo(shape.dtype).eps ** 0.5 * jnp.maximum(1.0, optax.tree.norm((x, y)))
        met = missed <= allowed
        if not isinstance(met, jax.core.Tracer) and not met:
            raise ValueError(
                f"project must give a point that meets the constraint, but misses it by {missed} at"
                " the start: no point may meet it."
            )
        multipliers = jnp.zeros(shape.shape, shape.dtype)
        return LvHbaState(
            count=jnp.zeros((), jnp.int32),
            x=x,
            y=y,
            z=multipliers,
            theta=fresh(y),
            multipliers=fresh(multipliers),
            outer_optimizer=outer_optimizer.init(x),
            inner_optimizer=inner_optimizer.init(y),
        )

    def step(state, outer_batch, inner_batch, **extra):
        del extra
        x, y = state.x, state.y
        check_objectives(outer, inner, x, y, outer_batch, inner_batch)

        def along(value, pull, gamma):
            return jax.tree.map(lambda v, a, b: v + (a - b) / gamma, value, *pull)

        descent, ascent = jax.grad(lagrangian, argnums=(1, 2))(
            x, state.theta, state.multipliers, inner_batch
        )
        theta = optax.tree.add_scale(
            state.theta, -saddle_rate, along(descent, (state.theta, y), gamma1)
        )
        upward = ascent - (state.multipliers - state.z) / gamma2
        multipliers = state.multipliers + saddle_rate * upward
        if not equality:
            multipliers = jnp.maximum(multipliers, 0.0)

        c_k = value_at(outer_weight, state.count)
        f_x, f_y = jax.grad(outer, argnums=(0, 1))(x, y, outer_batch)
        g_x, g_y = jax.grad(inner, argnums=(0, 1))(x, y, inner_batch)
        value_x = jax.grad(lagrangian)(x, theta, multipliers, inner_batch)
        d_x = jax.tree.map(lambda f, g, v: f / c_k + g - v, f_x, g_x, value_x)
        d_y = jax.tree.map(lambda f, g: f / c_k + g, f_y, g_y)
        d_y = along(d_y, (theta, y), gamma1)

        x, x_state = advance(outer_optimizer, d_x, state.outer_optimizer, x)
        y, y_state = advance(inner_optimizer, d_y, state.inner_optimizer, y)
        x, y = project((x, y))
        z = state.z + center_rate * (multipliers - state.z) / gamma2
        z = jnp.clip(z, lowest, radius)
        info = report(d_x, d_y, violation(x, y))
        count = optax.safe_increment(state.count)
        return LvHbaState(count, x, y, z, theta, multipliers, x_state, y_state), info

    return Solver(init, step)
