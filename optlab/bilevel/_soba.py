"""SOBA: one loop in which both variables and the linear system move together."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from optlab.base import PyTree, Solver
from optlab.bilevel._common import (
    Project,
    advance,
    check_objectives,
    identity,
    pair_of_full,
    report,
    start,
)
from optlab.bilevel._directions import Direction, Gradient, plain

__all__ = ["SobaState", "soba"]


class SobaState(NamedTuple):
    """State of :func:`soba` and of the methods built on it."""

    x: PyTree  # outer variable
    y: PyTree  # inner variable
    v: PyTree  # solution of the linear system, like y
    outer_optimizer: optax.OptState  # of x
    inner_optimizer: optax.OptState  # of y
    linear_optimizer: optax.OptState  # of v
    outer_direction: PyTree  # what it remembers of the outer batches
    inner_direction: PyTree  # what it remembers of the inner batches
    hyper_direction: PyTree  # what it remembers of the hypergradients, or of all three; or ()


def soba(
    outer: Callable,
    inner: Callable,
    *,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    linear_optimizer: optax.GradientTransformation,
    outer_direction: Direction | None = None,
    inner_direction: Direction | None = None,
    hyper_direction: Direction | None = None,
    joint_direction: Direction | None = None,
    project_outer: Project = identity,
    project_inner: Project = identity,
) -> Solver:
    r"""Stochastic bilevel descent in one loop.

    .. math::
        y \leftarrow y - \rho\, g_y, \qquad
        v \leftarrow v - \rho\, (g_{yy} v - f_y), \qquad
        x \leftarrow x - \gamma\, (f_x - g_{xy} v)

    all taken at the old (x, y, v), on one batch of each objective. The terms of :math:`g` are the
    gradient of the slope :math:`\langle g_y, v\rangle` in (v, y, x). The optimizers replace the
    plain steps, the directions the plain values: with :func:`saga` this is SABA, with a joint
    :func:`spider` SRBA.

    ``state = solver.init(key, x, y)``; ``state, info = solver.step(state, outer_batch,
    inner_batch)``, with ``outer_index`` and ``inner_index`` for :func:`saga`, ``outer_full`` and
    ``inner_full`` for :func:`spider`.

    Args:
        outer: f, a function ``(x, y, batch) -> scalar``.
        inner: g, likewise, strongly convex in y.
        outer_optimizer: any optax transformation, for x.
        inner_optimizer: for y.
        linear_optimizer: for v.
        outer_direction: of the values on the outer batches, :math:`(f_x, f_y)`; None is plain.
        inner_direction: of those on the inner ones, :math:`(g_y, g_{yy} v, g_{xy} v)`.
        hyper_direction: of :math:`f_x - g_{xy} v` as a whole, in place of its two parts; None
            takes those. It is for x alone, with batches of both objectives.
        joint_direction: of all that the three steps follow, in place of the others: a memory of
            three trees, where the parts are five. It follows one gradient, that of
            :math:`f - \langle g_y, v\rangle`. As batches of two objectives have no one index, it
            cannot be :func:`saga`.
        project_outer: onto the set in which x is kept.
        project_inner: onto the set in which y is kept.

    Returns:
        The solver; its info is a :class:`BilevelInfo`. The key is not used.

    Raises:
        ValueError: if ``joint_direction`` is not the only direction, a loss is no scalar, a batch's
            leaves differ in their leading size, or, with a joint direction, one of ``outer_full``
            and ``inner_full`` comes without the other.

    >>> f, g = lambda x, y, b: (y - 1) ** 2 + x**2, lambda x, y, b: (y - x) ** 2
    >>> sgd = optax.sgd(0.1)
    >>> solver = soba(f, g, outer_optimizer=sgd, inner_optimizer=sgd, linear_optimizer=sgd)
    >>> state = solver.init(jax.random.key(0), 0.0, 0.0)
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=200)
    >>> round(float(state.x), 3), round(float(state.y), 3)
    (0.5, 0.5)

    References:
        M. Dagréou, P. Ablin, S. Vaiter, T. Moreau, "A framework for bilevel optimization that
        enables stochastic and global variance reduction algorithms", NeurIPS 2022,
        arXiv:2201.13409

    Differs from the paper: v has the opposite sign, that of :math:`g_{yy}^{-1} f_y`.
    """
    if joint_direction and (outer_direction or inner_direction or hyper_direction):
        raise ValueError("joint_direction must be the only direction.")
    outer_direction, inner_direction = outer_direction or plain(), inner_direction or plain()

    def outer_oracle(point, batch):
        x, y, _ = point
        return jax.grad(outer, argnums=(0, 1))(x, y, batch)

    def slope(point, batch):
        x, y, v = point
        return jax.jvp(lambda y: inner(x, y, batch), (y,), (v,))[1]

    def inner_oracle(point, batch):
        # One reverse pass over the slope g_y v gives all three. It reads matrices the way they
        # lie, where a vjp of g_y has to transpose them: half of its time.
        cross, product, gradient = jax.grad(slope)(point, batch)
        return gradient, product, cross

    def hyper_oracle(point, batches):
        f_x, _ = outer_oracle(point, batches[0])
        return optax.tree.sub(f_x, inner_oracle(point, batches[1])[2])

    def lagrangian(point, batches):
        x, y, _ = point
        return outer(x, y, batches[0]) - slope(point, batches[1])

    def init(key, x, y):
        del key
        x, y = start(x, y, project_outer, project_inner)
        v = optax.tree.zeros_like(y)
        hyper_memory = ()
        if joint_direction is not None:
            hyper_memory = joint_direction.init((x, y, v), (x, y, v))
        elif hyper_direction is not None:
            hyper_memory = hyper_direction.init(x, (x, y, v))
        return SobaState(
            x=x,
            y=y,
            v=v,
            outer_optimizer=outer_optimizer.init(x),
            inner_optimizer=inner_optimizer.init(y),
            linear_optimizer=linear_optimizer.init(v),
            outer_direction=outer_direction.init((x, y), (x, y, v)),
            inner_direction=inner_direction.init((y, v, x), (x, y, v)),
            hyper_direction=hyper_memory,
        )

    def directions(state, batches, indices, full):
        """What x, y and v follow, and the three memories."""
        point = (state.x, state.y, state.v)
        if joint_direction is not None:
            # All that is followed is one gradient, but for the signs of y and v.
            (along_x, against_v, against_y), memory = joint_direction.estimate(
                Gradient(lagrangian),
                point,
                batches,
                state.hyper_direction,
                full=pair_of_full(*full),
            )
            followed = along_x, *optax.tree.scale(-1, (against_y, against_v))
            return followed, (state.outer_direction, state.inner_direction, memory)
        (f_x, f_y), outer_memory = outer_direction.estimate(
            outer_oracle,
            point,
            batches[0],
            state.outer_direction,
            index=indices[0],
            full=full[0],
        )
        (g_y, product, cross), inner_memory = inner_direction.estimate(
            inner_oracle,
            point,
            batches[1],
            state.inner_direction,
            index=indices[1],
            full=full[1],
        )
        hypergradient, hyper_memory = optax.tree.sub(f_x, cross), ()
        if hyper_direction is not None:
            hypergradient, hyper_memory = hyper_direction.estimate(
                hyper_oracle, point, batches, state.hyper_direction
            )
        followed = hypergradient, g_y, optax.tree.sub(product, f_y)
        return followed, (outer_memory, inner_memory, hyper_memory)

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
        check_objectives(outer, inner, state.x, state.y, outer_batch, inner_batch)
        (hypergradient, g_y, residual), memories = directions(
            state,
            (outer_batch, inner_batch),
            (outer_index, inner_index),
            (outer_full, inner_full),
        )
        x, outer_state = advance(
            outer_optimizer, hypergradient, state.outer_optimizer, state.x, project_outer
        )
        y, inner_state = advance(
            inner_optimizer, g_y, state.inner_optimizer, state.y, project_inner
        )
        v, linear_state = advance(linear_optimizer, residual, state.linear_optimizer, state.v)
        info = report(hypergradient, g_y, residual)
        return SobaState(x, y, v, outer_state, inner_state, linear_state, *memories), info

    return Solver(init, step)
