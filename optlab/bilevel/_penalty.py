"""The penalty method: the inner problem becomes a term of the outer one; first derivatives only."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import value_at
from optlab._batches import nth_batch
from optlab._checks import check_count, check_range
from optlab.base import PyTree, Solver
from optlab.bilevel._common import (
    Project,
    advance,
    check_leading,
    check_objectives,
    fresh,
    identity,
    report,
    start,
)
from optlab.bilevel._directions import Direction, plain

__all__ = ["PenaltyState", "penalty"]


class PenaltyState(NamedTuple):
    """State of :func:`penalty` and :func:`f2sa`."""

    count: jax.Array  # steps taken; shape=(), dtype=int32
    x: PyTree  # outer variable
    y: PyTree  # minimises the inner objective and a little of the outer one
    z: PyTree  # minimises the inner objective alone, like y
    outer_optimizer: optax.OptState  # of x
    inner_optimizer: optax.OptState  # of y
    pure_optimizer: optax.OptState  # of z
    outer_direction: PyTree  # what it remembers of the outer batches
    inner_direction: PyTree  # what it remembers of the inner batches


def penalty(
    outer: Callable,
    inner: Callable,
    *,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    sigma: optax.ScalarOrSchedule,
    inner_steps: int = 1,
    fresh_batches: bool = False,
    outer_direction: Direction | None = None,
    inner_direction: Direction | None = None,
    project_outer: Project = identity,
    project_inner: Project = identity,
    rescale: bool = False,
    pure_optimizer: optax.GradientTransformation | None = None,
) -> Solver:
    r"""Descends the difference of two inner values, which needs no second derivative.

    .. math::
        \psi_\sigma(x) = \frac{\min_{y} (\sigma f + g)(x, y) - \min_{z} g(x, z)}{\sigma}, \qquad
        \nabla \psi_\sigma(x) = f_x(x, y) + \frac{g_x(x, y) - g_x(x, z)}{\sigma}

    A step moves y along :math:`\sigma f_y + g_y` and z along :math:`g_y`, T times, and then x. The
    gap to the bilevel gradient is :math:`O(\sigma)`, also where the inner solution is not unique:
    then the one that the outer objective likes best counts. With T = 1 and :func:`storm` for both
    directions it is the method of a single loop with momentum.

    ``state = solver.init(key, x, y)``; ``state, info = solver.step(state, outer_batch,
    inner_batch)``; ``outer_index``, ``inner_index``, ``outer_full`` and ``inner_full`` are passed
    on to the directions. Both objectives' batches belong to each direction.

    Args:
        outer: f, a function ``(x, y, batch) -> scalar``.
        inner: g, likewise; not necessarily strongly convex.
        outer_optimizer: any optax transformation, for x.
        inner_optimizer: for y.
        sigma: a positive number, or a schedule of the step count.
        inner_steps: T, at least 1.
        fresh_batches: whether each inner step has batches of its own: the leaves of both batches
            then have a leading axis of T. x takes the last.
        outer_direction: of :math:`(f_x, g_x(y), g_x(z))`; None is plain.
        inner_direction: of :math:`(f_y, g_y(y), g_y(z))`; None is plain.
        project_outer: onto the convex set in which x is kept.
        project_inner: onto the convex set in which y and z are kept; or a proximal operator.
        rescale: whether y moves along :math:`f_y + g_y / \sigma` instead, as in F2SA.
        pure_optimizer: for z; None is ``inner_optimizer``, with a state of its own.

    Returns:
        The solver; its info is a :class:`BilevelInfo`. The key is not used.

    Raises:
        ValueError: if ``sigma`` or ``inner_steps`` is out of range, a loss is no scalar, or a
            batch's leaves differ in their leading size.

    >>> f, g = lambda x, y, b: (y - 1) ** 2, lambda x, y, b: (y - 2 * x) ** 2
    >>> solver = penalty(f, g, outer_optimizer=optax.sgd(0.05), inner_optimizer=optax.sgd(0.2),
    ...                  sigma=0.1)
    >>> state = solver.init(jax.random.key(0), jnp.array(0.0), jnp.array(0.0))
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=300)
    >>> round(float(state.x), 3)
    0.5

    References:
        J. Kwon, D. Kwon, S. Wright, R. Nowak, "On Penalty Methods for Nonconvex Bilevel
        Optimization and First-Order Stochastic Approximation", ICLR 2024, arXiv:2309.01753

    Differs from the paper: any optimizer takes the steps.
    """
    check_range("sigma", sigma, 0.0, float("inf"), closed="()")
    check_count("inner_steps", inner_steps, 1)
    outer_direction, inner_direction = outer_direction or plain(), inner_direction or plain()
    pure_optimizer = pure_optimizer or inner_optimizer

    def gradients(variable):
        def oracle(point, batches):
            x, y, z = point
            outer_batch, inner_batch = batches
            return (
                jax.grad(outer, argnums=variable)(x, y, outer_batch),
                jax.grad(inner, argnums=variable)(x, y, inner_batch),
                jax.grad(inner, argnums=variable)(x, z, inner_batch),
            )

        return oracle

    def init(key, x, y):
        del key
        x, y = start(x, y, project_outer, project_inner)
        z = fresh(y)
        return PenaltyState(
            count=jnp.zeros((), jnp.int32),
            x=x,
            y=y,
            z=z,
            outer_optimizer=outer_optimizer.init(x),
            inner_optimizer=inner_optimizer.init(y),
            pure_optimizer=pure_optimizer.init(z),
            outer_direction=outer_direction.init((x, x, x), (x, y, z)),
            inner_direction=inner_direction.init((y, y, y), (x, y, z)),
        )

    def step(
        state,
        outer_batch,
        inner_batch,
        *,
        outer_index=None,
        inner_index=None,
        outer_full=None,
        inner_full=None,
        **extra,
    ):
        del extra
        batches = (outer_batch, inner_batch)
        if fresh_batches:
            for name, batch in zip(("outer_batch", "inner_batch"), batches, strict=True):
                check_leading(name, batch, inner_steps, "one an inner step")
        last = nth_batch(batches, -1, fresh_batches)
        check_objectives(outer, inner, state.x, state.y, *last)
        s = value_at(sigma, state.count)
        full = None if outer_full is None and inner_full is None else (outer_full, inner_full)
        # An index counts pairs of batches; one of the two is enough where they come in step.
        index = inner_index if outer_index is None else outer_index

        def inner_step(t, carry):
            y, z, y_state, z_state, memory, _ = carry
            (f_y, g_y, g_z), memory = inner_direction.estimate(
                gradients(1),
                (state.x, y, z),
                nth_batch(batches, t, fresh_batches),
                memory,
                index=index,
                full=full,
            )
            along = optax.tree.add_scale(g_y, s, f_y)
            if rescale:
                along = optax.tree.add_scale(f_y, 1.0 / s, g_y)
            y, y_state = advance(inner_optimizer, along, y_state, y, project_inner)
            z, z_state = advance(pure_optimizer, g_z, z_state, z, project_inner)
            return y, z, y_state, z_state, memory, optax.tree.norm(along)

        norm = jax.eval_shape(optax.tree.norm, state.y)
        y, z, y_state, z_state, inner_memory, inner_norm = jax.lax.fori_loop(
            0,
            inner_steps,
            inner_step,
            (
                state.y,
                state.z,
                state.inner_optimizer,
                state.pure_optimizer,
                state.inner_direction,
                jnp.zeros(norm.shape, norm.dtype),
            ),
        )
        (f_x, g_x, g_z), outer_memory = outer_direction.estimate(
            gradients(0), (state.x, y, z), last, state.outer_direction, index=index, full=full
        )
        hypergradient = optax.tree.add_scale(f_x, 1.0 / s, optax.tree.sub(g_x, g_z))
        x, x_state = advance(
            outer_optimizer, hypergradient, state.outer_optimizer, state.x, project_outer
        )
        info = report(hypergradient, inner_norm)
        return (
            PenaltyState(
                optax.safe_increment(state.count),
                x,
                y,
                z,
                x_state,
                y_state,
                z_state,
                outer_memory,
                inner_memory,
            ),
            info,
        )

    return Solver(init, step)
