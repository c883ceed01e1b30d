"""VRBO: both levels follow differences along the path, the outer one within the inner loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from optlab._batches import nth_batch
from optlab._checks import check_count, check_range
from optlab.base import PyTree, Solver
from optlab.bilevel._common import (
    Project,
    advance,
    check_leading,
    check_objectives,
    identity,
    pair_of_full,
    report,
    start,
)
from optlab.bilevel._directions import StormState, spider
from optlab.hypergrad import neumann

__all__ = ["VrboState", "vrbo"]


class VrboState(NamedTuple):
    """State of :func:`vrbo`."""

    x: PyTree  # outer variable
    y: PyTree  # inner variable
    outer_optimizer: optax.OptState  # of x
    inner_optimizer: optax.OptState  # of y
    directions: StormState  # the last inner gradient and hypergradient, and where they were taken


def vrbo(
    outer: Callable,
    inner: Callable,
    *,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    terms: int = 10,
    neumann_step: Any = 0.5,
    inner_steps: int = 10,
    fresh_batches: bool = False,
    paired: bool = False,
    project_outer: Project = identity,
    project_inner: Project = identity,
) -> Solver:
    r"""Variance-reduced bilevel optimizer.

    With h from the Neumann series of :func:`stocbio`, a step moves x and then T times y,

    .. math::
        x \leftarrow x - \gamma\, u, \qquad y \leftarrow y - \rho\, s

    where before each move of y, and after the last, both directions follow their differences on a
    batch (:func:`spider`), from the point z' of the last time to z = (x, y):

    .. math::
        s \leftarrow s + g_y(z; b) - g_y(z'; b), \qquad u \leftarrow u + h(z; b) - h(z'; b)

    Every period starts with a step that is given all data, of which s and u are taken anew:
    ``solver.step(state, outer_batch, inner_batch, outer_full=..., inner_full=...)``. A first step
    without them leaves x where it is, for want of a direction.

    Args:
        outer: f, a function ``(x, y, batch) -> scalar``.
        inner: g, likewise, strongly convex in y.
        outer_optimizer: any optax transformation, for x.
        inner_optimizer: for y.
        terms: of :func:`optlab.hypergrad.neumann`, at least 1.
        neumann_step: below twice the inverse of the largest eigenvalue.
        inner_steps: T, at least 1.
        fresh_batches: whether each of the T + 1 differences has batches of its own: the leaves of
            both batches then have a leading axis of T + 1.
        paired: whether the two values of a difference are taken at once, see :func:`spider`.
        project_outer: onto the set in which x is kept.
        project_inner: onto the set in which y is kept.

    Returns:
        The solver; its info is a :class:`BilevelInfo`. The key is not used.

    Raises:
        ValueError: if a number is out of range, one of ``outer_full`` and ``inner_full`` comes
            without the other, a loss is no scalar, or a batch's leaves differ in their leading
            size.

    >>> f, g = lambda x, y, b: (y - 1) ** 2 + x**2, lambda x, y, b: (y - x) ** 2
    >>> sgd = optax.sgd(0.1)
    >>> solver = vrbo(f, g, outer_optimizer=sgd, inner_optimizer=sgd, neumann_step=0.4)
    >>> state = solver.init(jax.random.key(0), 0.0, 0.0)
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=60)
    >>> round(float(state.x), 3)
    0.5

    References:
        J. Yang, K. Ji, Y. Liang, "Provably Faster Algorithms for Bilevel Optimization", NeurIPS
        2021, arXiv:2106.04692

    Differs from the paper: all terms of a Neumann series share one batch.
    """
    check_count("inner_steps", inner_steps, 1)
    check_range("neumann_step", neumann_step, 0.0, float("inf"), closed="()")
    estimator, direction = neumann(terms, neumann_step, tolerance=None), spider(paired=paired)

    def oracle(point, batches):
        hypergradient, _ = estimator.estimate(outer, inner, *point, *batches)
        return jax.grad(inner, argnums=1)(*point, batches[1]), hypergradient

    def init(key, x, y):
        del key
        x, y = start(x, y, project_outer, project_inner)
        return VrboState(
            x, y, outer_optimizer.init(x), inner_optimizer.init(y), direction.init((y, x), (x, y))
        )

    def step(state, outer_batch, inner_batch, *, outer_full=None, inner_full=None, **extra):
        del extra
        batches = (outer_batch, inner_batch)
        if fresh_batches:
            for name, batch in zip(("outer_batch", "inner_batch"), batches, strict=True):
                check_leading(name, batch, inner_steps + 1, "one a difference")
        check_objectives(outer, inner, state.x, state.y, *nth_batch(batches, 0, fresh_batches))
        memory = state.directions
        full = pair_of_full(outer_full, inner_full)
        if full is not None:
            _, memory = direction.estimate(oracle, (state.x, state.y), None, memory, full=full)
        along_x = memory.direction[1]
        x, outer_state = advance(
            outer_optimizer, along_x, state.outer_optimizer, state.x, project_outer
        )

        def difference(t, y, memory):
            batch = nth_batch(batches, t, fresh_batches)
            (along_y, _), memory = direction.estimate(oracle, (x, y), batch, memory)
            return along_y, memory

        def inner_step(t, carry):
            y, optimizer, memory = carry
            along_y, memory = difference(t, y, memory)
            y, optimizer = advance(inner_optimizer, along_y, optimizer, y, project_inner)
            return y, optimizer, memory

        y, inner_state, memory = jax.lax.fori_loop(
            0, inner_steps, inner_step, (state.y, state.inner_optimizer, memory)
        )
        along_y, memory = difference(inner_steps, y, memory)
        info = report(along_x, along_y)
        return VrboState(x, y, outer_state, inner_state, memory), info

    return Solver(init, step)
