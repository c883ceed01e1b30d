"""Directions: what a step follows, made of an oracle's values on batches, with less variance.

An *oracle* is a function ``(point, batch) -> tree``: a gradient, or several things that a solver
needs at once. A :class:`Direction` remembers some of its earlier values and points. The solvers of
:mod:`optlab.bilevel` take one for each level; with ``jax.grad(loss)`` for an oracle they serve
single-level problems as well.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import value_at
from optlab._checks import check_count, check_range
from optlab.base import PyTree
from optlab.bilevel._common import fresh, known_ids, put_rows, rows_of

__all__ = ["Direction", "MsvrState", "StormState", "msvr", "plain", "saga", "spider", "storm"]


class Direction(NamedTuple):
    """``state = init(like, point)``, and ``estimate``.

    ``estimate(oracle, point, batch, state, *, index=None, full=None)`` gives the direction, a tree
    ``like`` the oracle's values, and the next state. ``index`` is the batch's number, or those of
    the blocks that were drawn, ``full`` all data as one batch; each is needed by some directions
    and ignored by the others.
    """

    init: Callable[[PyTree, PyTree], PyTree]
    estimate: Callable[..., tuple[PyTree, PyTree]]


class Gradient(NamedTuple):
    """An oracle: the gradient of ``value(point, batch)``, which can be taken at several points.

    There it is the gradient of the values' sum: what ``vmap`` of the gradient gives, but all
    products read matrices the way they lie, where ``vmap`` makes XLA turn one around (460 for 690
    microseconds on the quadratics of benchopt/benchmark_bilevel).
    """

    value: Callable[[PyTree, PyTree], jax.Array]

    def __call__(self, point, batch):
        return jax.grad(self.value)(point, batch)

    def at_all(self, points, batch):
        """The gradients at points along a leading axis of the leaves."""

        def total(points):
            return jnp.sum(jax.vmap(lambda point: self.value(point, batch))(points))

        return jax.grad(total)(points)


class StormState(NamedTuple):
    """State of :func:`storm` and :func:`spider`."""

    count: jax.Array  # estimates made; shape=(), dtype=int32
    point: PyTree  # of the last estimate
    direction: PyTree  # the last one


class SagaState(NamedTuple):
    """State of :func:`saga`."""

    memory: PyTree  # the oracle's last values on every batch, shape=[batches, ...]
    mean: PyTree  # of the memory, over its leading axis


class MsvrState(NamedTuple):
    """State of :func:`msvr`."""

    counts: jax.Array  # estimates made of each block; shape=[blocks], dtype=int32
    point: PyTree  # of the last step, whichever blocks it drew
    memory: PyTree  # the last estimate of every block, shape=[blocks, ...]


def plain() -> Direction:
    """The oracle's value itself: no memory.

    Returns:
        The direction.

    >>> direction, _ = plain().estimate(lambda x, b: x - b, jnp.array(3.0), jnp.array(1.0), ())
    >>> float(direction)
    2.0
    """

    def estimate(oracle, point, batch, state, *, index=None, full=None):
        del index, full
        return oracle(point, batch), state

    return Direction(lambda like, point: (), estimate)


def storm(weight: optax.ScalarOrSchedule, *, paired: bool = False) -> Direction:
    r"""Recursive momentum.

    .. math:: d_t = G(z_t; b_t) + (1 - a_t) \big(d_{t-1} - G(z_{t-1}; b_t)\big)

    Two values of the oracle a step, on the same batch; :math:`d_0 = G(z_0; b_0)`.

    Args:
        weight: :math:`a_t` in [0, 1]; 1 is :func:`plain`. A schedule counts the estimates from 0.
        paired: whether the two values are taken at once, by ``vmap``: see :func:`spider`.

    Returns:
        The direction; its state is twice as large as a value and a point together.

    Raises:
        ValueError: if ``weight`` is out of range.

    >>> d = storm(0.5)
    >>> oracle, state = lambda x, b: x - b, d.init(jnp.array(0.0), jnp.array(0.0))
    >>> for batch in (1.0, 3.0):
    ...     direction, state = d.estimate(oracle, jnp.array(2.0), batch, state)
    >>> float(direction)  # the mean of the two, as the point did not move
    0.0

    References:
        A. Cutkosky, F. Orabona, "Momentum-Based Variance Reduction in Non-Convex SGD",
        NeurIPS 2019, arXiv:1905.10018
    """
    check_range("weight", weight, 0.0, 1.0, closed="[]")

    def estimate(oracle, point, batch, state, *, index=None, full=None):
        del index, full
        keep = jnp.where(state.count == 0, 0.0, 1.0 - value_at(weight, state.count))
        return _recursive(_two_values(oracle, point, batch, state, paired), keep, point, state)

    return Direction(_init_recursive, estimate)


def spider(*, paired: bool = False, full_in_batches: bool = False) -> Direction:
    r"""Differences along the path, from a value on all data (SPIDER, SARAH).

    .. math:: d_t = d_{t-1} + G(z_t; b_t) - G(z_{t-1}; b_t)

    or :math:`d_t = G(z_t; \text{all})` at a step that is given ``full``. Whether one is, is known
    when the step is compiled: an epoch is one compiled step with ``full`` and a scan of steps
    without, and no step carries a full pass that it does not take.

    Args:
        paired: whether the two values are taken at once, by ``vmap``. A linear model then reads its
            batch once, for 0.55 to 0.7 of their time on CPU; networks lose (twice the time), as
            ``vmap`` over weights makes batched products and grouped convolutions.
        full_in_batches: whether ``full`` comes as batches of one size along a leading axis. Their
            values are averaged one after the other: a full pass in the memory of a batch, which
            is read from there as often as a value needs it. Right for values that are means over
            the rows, as gradients of mean losses are.

    Returns:
        The direction; its first estimate without ``full`` is the value on the batch.

    Raises:
        ValueError: if leaves of a ``full`` in batches differ in their leading size, or have none.

    >>> d = spider()
    >>> oracle, state = lambda x, b: x * b, d.init(jnp.array(0.0), jnp.array(0.0))
    >>> _, state = d.estimate(oracle, jnp.array(1.0), 9.0, state, full=2.0)
    >>> float(d.estimate(oracle, jnp.array(1.5), 4.0, state)[0])
    4.0

    References:
        C. Fang, C. J. Li, Z. Lin, T. Zhang, "SPIDER: Near-Optimal Non-Convex Optimization via
        Stochastic Path Integrated Differential Estimator", NeurIPS 2018, arXiv:1807.01695
    """

    def estimate(oracle, point, batch, state, *, index=None, full=None):
        del index
        if full is not None:
            if full_in_batches:
                direction = _mean_value(oracle, point, full, state.direction)
            else:
                direction = oracle(point, full)
            return direction, StormState(state.count + 1, point, direction)
        keep = jnp.where(state.count == 0, 0.0, 1.0)
        return _recursive(_two_values(oracle, point, batch, state, paired), keep, point, state)

    return Direction(_init_recursive, estimate)


def saga(batches: int) -> Direction:
    r"""A memory of the last value on every batch.

    .. math::
        d_t = G(z_t; b_i) - M_i + \bar M, \qquad M_i \leftarrow G(z_t; b_i)

    The memory starts at zero. A step reads and writes one row of it.

    Args:
        batches: how many there are; ``index`` must be below it.

    Returns:
        The direction; its state is ``batches + 1`` times as large as a value.

    Raises:
        ValueError: if ``batches`` is no positive integer, or a step's ``index`` is missing or,
            outside ``jit``, out of range.

    >>> d = saga(2)
    >>> state = d.init(jnp.array(0.0), ())
    >>> direction, state = d.estimate(lambda x, b: x * b, 1.0, 4.0, state, index=1)
    >>> float(direction), state.memory.tolist(), float(state.mean)
    (4.0, [0.0, 4.0], 2.0)

    References:
        A. Defazio, F. Bach, S. Lacoste-Julien, "SAGA: A Fast Incremental Gradient Method With
        Support for Non-Strongly Convex Composite Objectives", NeurIPS 2014, arXiv:1407.0202
    """
    check_count("batches", batches, 1)

    def init(like, point):
        del point
        memory = jax.tree.map(lambda x: jnp.zeros((batches, *x.shape), x.dtype), like)
        return SagaState(memory, optax.tree.zeros_like(like))

    def estimate(oracle, point, batch, state, *, index=None, full=None):
        del full
        index = known_ids("index", index, batches)
        new = oracle(point, batch)
        old = _read(state.memory, index)
        change = optax.tree.sub(new, old)
        direction = optax.tree.add(change, state.mean)
        memory = jax.tree.map(lambda m, g, o: m.at[index].set(_after(o, g)), state.memory, new, old)
        mean = optax.tree.add_scale(state.mean, 1.0 / batches, change)
        return direction, SagaState(memory, mean)

    return Direction(init, estimate)


def msvr(blocks: int, weight: float) -> Direction:
    r"""An estimate of every block's value, of which a step sees a few (MSVR).

    .. math::
        s_i \leftarrow (1 - \alpha) s_i + \alpha\, G_i(z_t)
            + \beta \big(G_i(z_t) - G_i(z_{t-1})\big),
        \qquad \beta = \frac{m - I}{I (1 - \alpha)} + 1 - \alpha

    for the I blocks i that are drawn of the m; the others stay. The large :math:`\beta` makes up
    for the steps at which a block was not drawn. With one block it is :func:`storm`.

    Here ``init(like, point)`` takes one block's value for ``like``, the oracle gives values with a
    leading axis of the drawn blocks, and ``index`` holds their numbers.

    Args:
        blocks: m.
        weight: :math:`\alpha` in (0, 1).

    Returns:
        The direction, of the drawn blocks; its state is ``blocks`` times as large as a block's
        value, and a point. A block's first estimate is its value. Of numbers that are out of range
        within ``jit`` it gives NaN.

    Raises:
        ValueError: if an argument is out of range, or a step's ``index`` is missing or, outside
            ``jit``, out of range.

    >>> d, slopes = msvr(3, 0.5), jnp.array([1.0, 2.0, 3.0])
    >>> oracle, state = lambda x, ids: slopes[ids] * x, d.init(jnp.array(0.0), jnp.array(0.0))
    >>> ids = jnp.array([2, 0])
    >>> direction, state = d.estimate(oracle, jnp.array(1.0), ids, state, index=ids)
    >>> direction.tolist(), state.memory.tolist()
    ([3.0, 1.0], [1.0, 0.0, 3.0])

    References:
        W. Jiang, G. Li, Y. Wang, L. Zhang, T. Yang, "Multi-block-Single-probe Variance Reduced
        Estimator for Coupled Compositional Optimization", NeurIPS 2022, arXiv:2207.08540

    Differs from the paper: the first estimate of a block is its first value.
    """
    check_count("blocks", blocks, 1)
    check_range("weight", weight, 0.0, 1.0, closed="()")

    def init(like, point):
        memory = jax.tree.map(lambda x: jnp.zeros((blocks, *x.shape), x.dtype), like)
        return MsvrState(jnp.zeros(blocks, jnp.int32), fresh(point), memory)

    def estimate(oracle, point, batch, state, *, index=None, full=None):
        del full
        ids = known_ids("index", index, blocks)
        drawn = ids.shape[0]
        gain = (blocks - drawn) / (drawn * (1.0 - weight)) + 1.0 - weight
        new, old = oracle(point, batch), oracle(state.point, batch)
        first = rows_of(state.counts, ids) == 0

        def leaf(g, before, last):
            moved = (1.0 - weight) * last + weight * g + gain * (g - before)
            return jnp.where(first.reshape(-1, *[1] * (g.ndim - 1)), g, moved.astype(g.dtype))

        direction = jax.tree.map(leaf, new, old, rows_of(state.memory, ids))
        memory = put_rows(state.memory, ids, direction)
        counts = state.counts.at[ids].add(1, wrap_negative_indices=False)
        return direction, MsvrState(counts, point, memory)

    return Direction(init, estimate)


def _read(memory: PyTree, index: Any) -> PyTree:
    """One row of each array, in a form that XLA reads once, before it writes.

    Fused into the row's users the read has no place in the order of things, and on CPU the whole
    memory is copied twice a step to be safe; a branch is not fused. Both branches are the same.
    """

    def read():
        return jax.tree.map(lambda m: m[index], memory)

    return jax.lax.cond(index >= 0, read, read)


def _after(old: jax.Array, new: jax.Array) -> jax.Array:
    """Gives ``new``, known only when ``old`` is; a NaN stays, as it does in the mean."""
    return jnp.where(old == old, new, old)


def _init_recursive(like: PyTree, point: PyTree) -> StormState:
    return StormState(jnp.zeros((), jnp.int32), fresh(point), optax.tree.zeros_like(like))


def _two_values(
    oracle: Callable, point: PyTree, batch: PyTree, state: StormState, paired: bool
) -> tuple[PyTree, PyTree]:
    """The oracle's values on a batch, at a point and at the last one."""
    if not paired:
        return oracle(point, batch), oracle(state.point, batch)
    points = jax.tree.map(lambda *leaves: jnp.stack(leaves), point, state.point)
    if isinstance(oracle, Gradient):
        values = oracle.at_all(points, batch)
    else:
        values = jax.vmap(lambda z: oracle(z, batch))(points)
    return jax.tree.map(lambda leaf: leaf[0], values), jax.tree.map(lambda leaf: leaf[1], values)


def _mean_value(oracle: Callable, point: PyTree, batches: PyTree, like: PyTree) -> PyTree:
    """The mean of an oracle's values on batches along a leading axis, one after the other."""
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batches)}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            "full must hold as many batches in each leaf, along a leading axis, got sizes"
            f" {sorted(sizes)}."
        )
    ((count,),) = sizes

    def add(total, batch):
        value = oracle(point, batch)
        return jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, value), None

    def wide(leaf):
        return jnp.zeros_like(leaf, dtype=jnp.promote_types(leaf.dtype, jnp.float32))

    total, _ = jax.lax.scan(add, jax.tree.map(wide, like), batches)
    return jax.tree.map(lambda t, leaf: (t / count).astype(leaf.dtype), total, like)


def _recursive(
    values: tuple[PyTree, PyTree], keep: Any, point: PyTree, state: StormState
) -> tuple[PyTree, StormState]:
    """``new + keep * (last - old)``, without a NaN of the first step's ``old``."""
    new, old = values

    def leaf(g, last, before):
        return g + jnp.where(keep == 0, 0.0, keep * (last - before)).astype(g.dtype)

    direction = jax.tree.map(leaf, new, state.direction, old)
    return direction, StormState(state.count + 1, point, direction)
