"""Inner steps, then an outer one: the double loop, with any hypergradient."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._batches import nth_batch
from optlab._checks import check_count
from optlab.base import PyTree, Solver
from optlab.bilevel._common import (
    Project,
    advance,
    check_leading,
    check_objectives,
    fresh_key,
    identity,
    report,
    start,
)
from optlab.bilevel._directions import Direction, plain
from optlab.hypergrad import Estimator

__all__ = ["AlternatingState", "alternating"]


class AlternatingState(NamedTuple):
    """State of :func:`alternating` and of the methods built on it."""

    x: PyTree  # outer variable
    y: PyTree  # inner variable
    outer_optimizer: optax.OptState  # of x
    inner_optimizer: optax.OptState  # of y
    outer_direction: PyTree  # what it remembers of the outer batches
    inner_direction: PyTree  # what it remembers of the inner batches
    estimator: PyTree  # its warm start
    key: jax.Array  # raw data of the next step's key, dtype=uint32


def alternating(
    outer: Callable,
    inner: Callable,
    *,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    estimator: Estimator,
    inner_steps: int = 1,
    fresh_batches: bool = False,
    simultaneous: bool = False,
    outer_direction: Direction | None = None,
    inner_direction: Direction | None = None,
    project_outer: Project = identity,
    project_inner: Project = identity,
) -> Solver:
    r"""Some inner steps from the last y, then one outer step along a hypergradient.

    .. math::
        y \leftarrow y - \rho\, g_y(x, y) \quad (T \text{ times}), \qquad
        x \leftarrow x - \gamma\, h(x, y)

    With ``hypergrad.cg`` this is AID (HOAG, iMAML), with ``hypergrad.unrolled`` and no inner steps
    of its own ITD, with ``hypergrad.finite_difference`` DARTS, with ``hypergrad.neumann`` StocBiO
    or, randomized, BSA and TTSA; with :func:`storm` at both levels MRBO and SUSTAIN.

    ``state = solver.init(key, x, y)``; ``state, info = solver.step(state, outer_batch,
    inner_batch)``. The estimator gets the last inner batch, unless ``step`` is given another as
    ``estimate_batch``. ``outer_index``, ``inner_index``, ``outer_full`` and ``inner_full`` are
    passed on to the directions.

    Args:
        outer: f, a function ``(x, y, batch) -> scalar``.
        inner: g, likewise.
        outer_optimizer: any optax transformation, for x.
        inner_optimizer: for y; its state goes on from step to step.
        estimator: of the hypergradient h, from :mod:`optlab.hypergrad`.
        inner_steps: T, zero or more.
        fresh_batches: whether each inner step has a batch of its own: the leaves of ``inner_batch``
            then have a leading axis of T, at least 1.
        simultaneous: whether h is taken at the y from before the inner steps, as if both levels
            moved at once; an estimator's own moves of y then do not count.
        outer_direction: of the hypergradients; any but None needs an estimator without a state.
        inner_direction: of the inner gradients; None is plain.
        project_outer: onto the set in which x is kept.
        project_inner: onto the set in which y is kept.

    Returns:
        The solver; its info is a :class:`BilevelInfo`, with the estimator's residual in
        ``linear_norm``. If the estimator moves y itself, as ``unrolled`` does, y stays there.

    Raises:
        ValueError: if ``inner_steps`` is negative, a loss is no scalar, a batch's leaves differ in
            their leading size or are not one an inner step, a projection is not finite at the
            start, or a direction is given with an estimator that has a state.

    >>> from optlab import hypergrad
    >>> f, g = lambda x, y, b: (y - 1) ** 2, lambda x, y, b: (y - 2 * x) ** 2
    >>> sgd = optax.sgd(0.1)
    >>> solver = alternating(f, g, outer_optimizer=sgd, inner_optimizer=sgd,
    ...                      estimator=hypergrad.cg(), inner_steps=5)
    >>> state = solver.init(jax.random.key(0), jnp.array(0.0), jnp.array(0.0))
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=50)
    >>> round(float(state.x), 3)
    0.5

    References:
        J. Domke, "Generic Methods for Optimization-Based Modeling", AISTATS 2012; F. Pedregosa,
        "Hyperparameter Optimization with Approximate Gradient", ICML 2016, arXiv:1602.02355;
        K. Ji, J. Yang, Y. Liang, "Bilevel Optimization: Convergence Analysis and Enhanced Design",
        ICML 2021, arXiv:2010.07962
    """
    check_count("inner_steps", inner_steps, 0)
    inner_direction = inner_direction or plain()
    transported, outer_direction = outer_direction is not None, outer_direction or plain()

    def inner_oracle(point, batch):
        return jax.grad(inner, argnums=1)(*point, batch)

    def init(key, x, y):
        x, y = start(x, y, project_outer, project_inner)
        memory = estimator.init(x, y)
        if transported and jax.tree.leaves(memory):
            raise ValueError("outer_direction needs an estimator without a state.")
        return AlternatingState(
            x=x,
            y=y,
            outer_optimizer=outer_optimizer.init(x),
            inner_optimizer=inner_optimizer.init(y),
            outer_direction=outer_direction.init(x, (x, y)),
            inner_direction=inner_direction.init(y, (x, y)),
            estimator=memory,
            key=fresh_key(key),
        )

    def step(
        state,
        outer_batch,
        inner_batch,
        *,
        estimate_batch=None,
        outer_index=None,
        inner_index=None,
        outer_full=None,
        inner_full=None,
        **extra,
    ):
        del extra
        x = state.x
        if fresh_batches:
            check_leading("inner_batch", inner_batch, max(inner_steps, 1), "one an inner step")
        last = nth_batch(inner_batch, -1, fresh_batches)
        check_objectives(outer, inner, x, state.y, outer_batch, last)
        carried, used = jax.random.split(jax.random.wrap_key_data(state.key))

        def inner_step(t, carry):
            y, optimizer, memory, _ = carry
            gradient, memory = inner_direction.estimate(
                inner_oracle,
                (x, y),
                nth_batch(inner_batch, t, fresh_batches),
                memory,
                index=inner_index,
                full=inner_full,
            )
            y, optimizer = advance(inner_optimizer, gradient, optimizer, y, project_inner)
            return y, optimizer, memory, optax.tree.norm(gradient)

        start = (state.y, state.inner_optimizer, state.inner_direction)
        norm = jax.eval_shape(optax.tree.norm, state.y)
        y, inner_state, inner_memory, inner_norm = jax.lax.fori_loop(
            0, inner_steps, inner_step, (*start, jnp.zeros(norm.shape, norm.dtype))
        )

        at = last if estimate_batch is None else estimate_batch
        point = (x, state.y if simultaneous else y)

        def oracle(point, batch):
            return estimator.estimate(
                outer, inner, *point, batch, at, key=used, state=state.estimator
            )

        if transported:
            hypergradient, outer_memory = outer_direction.estimate(
                lambda point, batch: oracle(point, batch)[0],
                point,
                outer_batch,
                state.outer_direction,
                index=outer_index,
                full=outer_full,
            )
            memory, residual = state.estimator, jnp.zeros(norm.shape, norm.dtype)
        else:
            hypergradient, info = oracle(point, outer_batch)
            outer_memory, memory = state.outer_direction, info.state
            y = y if simultaneous else info.y
            residual = info.residual
        x, outer_state = advance(
            outer_optimizer, hypergradient, state.outer_optimizer, x, project_outer
        )
        info_of_step = report(hypergradient, inner_norm, residual)
        return (
            AlternatingState(
                x,
                y,
                outer_state,
                inner_state,
                outer_memory,
                inner_memory,
                memory,
                jax.random.key_data(carried),
            ),
            info_of_step,
        )

    return Solver(init, step)
