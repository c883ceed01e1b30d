"""The engine of steps in place: parameters and states are updated chunk by chunk.

A plain step decodes the whole state, updates it and codes it again, and XLA keeps what lies between
in float32, for all leaves at once: ten bytes a parameter for Adam, more than the codes have saved.
Here a loop takes some rows of a leaf at a time. In its body the coding of a value is a call that
XLA may not inline: it would decode and update anew for whatever reads the value, three passes for
each moment. The parameters are then written where they are computed, beside the coding, in one pass
that reads old codes perhaps; so XLA must be told that codes are written after that, or it would
copy whole buffers in every turn.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.experimental.xla_metadata import set_xla_metadata

from optlab.base import Codec, PyTree
from optlab.codecs import stochastic_round
from optlab.transforms.quantized import _pallas

__all__ = ["Slot", "stream"]

# Entries up to which a leaf is worked on whole: XLA then keeps its new codes beside the old ones,
# two bytes an entry for Adam, but a loop would cost more than that is worth.
_WHOLE = 1 << 16


class Slot(NamedTuple):
    """A leaf of a state."""

    node: Any  # the array, or Encoded
    codec: Codec | None  # of an Encoded one
    owner: int | None  # index of the parameter to which it belongs; None if all share it


class _Work(NamedTuple):
    """Some parameters and all that belongs to them."""

    params: list  # what is written: in an update the gradients
    nodes: list  # of their slots, in the order of the slots
    grads: list  # what is read only: in an update the parameters


class _Matrix(NamedTuple):
    """How a leaf can be cut into rows: each holds a whole number of blocks."""

    rows: int
    width: int


def stream(
    update: Callable[[list, list, list, dict], tuple[list, list]],
    params: Sequence[jax.Array],
    grads: Sequence[jax.Array],
    slots: Sequence[Slot],
    scalars: dict[str, Any],
    *,
    key: jax.Array | None = None,
    rounding: jax.Array | None = None,
    chunk: int,
    cut: bool,
    kernel: bool = False,
    adds: bool = True,
) -> tuple[list[jax.Array], list[Any]]:
    """Takes a step.

    Args:
        update: gives updates and new values of the slots from parameters, gradients, values of
            slots and ``scalars``. It sees every leaf; those that are not at work are None, or have
            zero size where it takes no None.
        params: leaves.
        grads: like ``params``.
        slots: leaves of the state.
        scalars: further arguments of ``update``, by name.
        key: of stochastic rounding of the slots.
        rounding: a key, for parameters in bfloat16 to be rounded stochastically; ``update`` then
            sees parameters and gradients in float32.
        chunk: about how many entries are at work at a time.
        cut: whether leaves may be cut; if not, a large one is at work alone, as a whole.
        kernel: whether leaves that are cut go through a kernel, if they fit into one.
        adds: whether updates are added to ``params``. If not they are written over them, so that
            ``params`` should be what is no longer needed, gradients; then ``grads`` are the
            parameters, and ``update`` is given them in this order.

    Returns:
        The new leaves of the parameters and of the state.
    """
    step = _Step(update, params, grads, slots, scalars, key, rounding, adds)
    matrices = [
        _matrix(i, p, slots) if cut and p.size > min(chunk, _WHOLE) else None
        for i, p in enumerate(params)
    ]
    new_params, new_nodes = list(params), [slot.node for slot in slots]

    def put(members, work):
        for i, p in zip(members, work.params, strict=True):
            new_params[i] = p
        for j, node in zip(step.owned(members), work.nodes, strict=True):
            new_nodes[j] = node

    for members in _bundles(params, matrices, chunk):
        # A call around both: XLA would update all the bundles before it codes the first.
        work, shared = _apart(functools.partial(step, members))(step.work(members))
        put(members, work)
    for j, value in zip(step.shared, shared, strict=True):
        new_nodes[j] = value
    for i, matrix in enumerate(matrices):
        if matrix is not None:
            work = _in_kernel(step, i, matrix) if kernel else None
            put([i], _in_rows(step, i, matrix, chunk) if work is None else work)
    return new_params, new_nodes


class _Step:
    """The step of some members."""

    def __init__(self, update, params, grads, slots, scalars, key, rounding, adds):
        self.update, self.scalars, self.key, self.rounding = update, scalars, key, rounding
        self.adds = adds
        self.params, self.grads, self.slots = params, grads, slots
        self.shared = [j for j, slot in enumerate(slots) if slot.owner is None]

    def owned(self, members: Sequence[int]) -> list[int]:
        """The indices of the slots of some parameters."""
        return [j for j, slot in enumerate(self.slots) if slot.owner in members]

    def work(self, members: Sequence[int]) -> _Work:
        """All that belongs to some parameters."""
        return _Work(
            params=[self.params[i] for i in members],
            nodes=[self.slots[j].node for j in self.owned(members)],
            grads=[self.grads[i] for i in members],
        )

    def __call__(self, members, work: _Work, turn: Any = 0) -> tuple[_Work, list]:
        """Gives the new work, without gradients, and the new values of what is shared."""
        new, shared = self._moved(members, work, turn)

        def coded(j, node, x):
            codec, key = self.slots[j].codec, self.key
            if codec is None:
                return x
            if key is not None:
                key = jax.random.fold_in(jax.random.fold_in(key, j), turn)
            return _apart(codec.refit(node, x.shape).encode)(x, key=key)

        nodes = map(coded, self.owned(members), work.nodes, new.nodes)
        return new._replace(nodes=list(nodes)), shared

    @functools.cached_property
    def reads_params(self) -> bool:
        """Whether new values of slots depend on parameters: if so, vmap makes many of one."""
        members = range(len(self.params))
        work = self.work(members)

        def nodes(params):
            return self._moved(members, work._replace(params=params), 0)[0].nodes

        def mapped():
            return jax.vmap(nodes, out_axes=None)([p[None] for p in self.params])

        try:
            jax.eval_shape(mapped)
        except (ValueError, NotImplementedError):  # many for one, or an operation not to be mapped
            return True
        return False

    def _shown(self, x: jax.Array) -> Any:
        """The dtype in which the update sees a parameter or a gradient."""
        return x.dtype if self.rounding is None else jnp.float32

    @functools.cached_property
    def takes_none(self) -> bool:
        """Whether the update takes trees with None for leaves, as masks that are functions do not.

        Else each leaf's loop would trace the operations on all the others.
        """
        nodes = [self.slots[j].node for j in self.shared]
        try:
            _, shared = jax.eval_shape(lambda: self._moved([], self.work([]), 0, none=True))
            return [(x.shape, x.dtype) for x in shared] == [(x.shape, x.dtype) for x in nodes]
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            return False

    def _moved(self, members, work, turn, *, none=None):
        """The new work, not coded yet, and the new values of what is shared."""
        if self.takes_none if none is None else none:
            params, grads, values = (
                [None] * len(xs) for xs in (self.params, self.grads, self.slots)
            )
        else:
            params, grads = (
                [_empty(x, self._shown(x)) for x in xs] for xs in (self.params, self.grads)
            )
            values = [
                _empty(s.node.code, jnp.float32) if s.codec else _empty(s.node, s.node.dtype)
                for s in self.slots
            ]
        for i, p, g in zip(members, work.params, work.grads, strict=True):
            params[i], grads[i] = (
                x.reshape(_shape(x, self.params[i].ndim)).astype(self._shown(x)) for x in (p, g)
            )
        owned = self.owned(members)
        for j, node in zip(owned, work.nodes, strict=True):
            codec, owner = self.slots[j].codec, self.slots[j].owner
            x = codec.decode(node) if codec else node
            values[j] = x.reshape(params[owner].shape) if x.size == params[owner].size else x
        for j in self.shared:
            values[j] = self.slots[j].node

        updates, new = self.update(params, grads, values, self.scalars)

        def shaped(j, node):
            codec = self.slots[j].codec
            if codec is None:
                return new[j].astype(node.dtype).reshape(node.shape)
            return new[j].reshape(jax.eval_shape(codec.decode, node).shape)

        def moved(i, p):
            if not self.adds:
                return updates[i].astype(p.dtype).reshape(p.shape)
            new = optax.apply_updates(params[i], updates[i].astype(grads[i].dtype))
            if self.rounding is not None:
                key = jax.random.fold_in(jax.random.fold_in(self.rounding, i), turn)
                new = stochastic_round(new, p.dtype, key)
            return new.reshape(p.shape)

        return (
            _Work(
                params=[moved(i, p) for i, p in zip(members, work.params, strict=True)],
                nodes=[shaped(j, node) for j, node in zip(owned, work.nodes, strict=True)],
                grads=[],
            ),
            [new[j] for j in self.shared],
        )


def _in_rows(step: _Step, index: int, matrix: _Matrix, chunk: int) -> _Work:
    """Steps some rows of a leaf at a time."""
    before = step.work([index])
    whole = jax.tree.map(lambda x: _as_bits(x.reshape(matrix.rows, -1)), before)
    count = _rows_a_turn(matrix, chunk)

    def turn(i, done, count=count, start=None):
        start = i * count if start is None else jnp.asarray(start)

        def take(x, like):
            return _from_bits(jax.lax.dynamic_slice_in_dim(x, start, count), like)

        def put(x, new, at):
            return jax.lax.dynamic_update_slice_in_dim(x, _as_bits(new), at, 0)

        part = jax.tree.map(take, done._replace(grads=whole.grads), before)
        new, _ = step([index], part, i)
        at = _after(start, new.nodes) if step.reads_params else start
        params = [put(x, p, at) for x, p in zip(done.params, new.params, strict=True)]
        at = _after(start, params)
        nodes = jax.tree.map(lambda x, node: put(x, node, at), done.nodes, new.nodes)
        return done._replace(params=params, nodes=nodes)

    turns, rest = divmod(matrix.rows, count)
    done = jax.lax.fori_loop(0, turns, turn, whole._replace(grads=[]))
    if rest:
        done = turn(turns, done, rest, turns * count)
    before = before._replace(grads=[])
    return jax.tree.map(lambda x, like: _from_bits(x, like).reshape(like.shape), done, before)


def _in_kernel(step: _Step, index: int, matrix: _Matrix) -> _Work | None:
    """Steps a leaf in one pass; None if it does not fit into a kernel."""
    before = step.work([index])
    scalars = jax.tree.map(jnp.asarray, step.scalars)
    shared = [step.slots[j].node for j in step.shared], scalars
    if not _pallas.fits(before, shared, matrix.rows):
        return None

    def body(work, shared):
        # A kernel takes all arrays as arguments; of the others it sees shapes alone.
        nodes, scalars = shared
        slots = list(step.slots)
        for j, node in zip(step.shared, nodes, strict=True):
            slots[j] = slots[j]._replace(node=node)
        own = _Step(step.update, step.params, step.grads, slots, scalars, None, None, step.adds)
        return own([index], work)[0]

    whole = jax.tree.map(lambda x: x.reshape(matrix.rows, -1), before)
    done = _pallas.run(body, whole, shared)
    return jax.tree.map(lambda x, like: x.reshape(like.shape), done, before._replace(grads=[]))


def _apart(function: Callable) -> Callable:
    """Makes of a function a call that XLA does not inline."""

    def inside(*args, **kwargs):
        # The mark is on all that is traced under it: every jnp.where would be a call of its own,
        # and the step take twice as long.
        with set_xla_metadata(inlineable="true"):
            return function(*args, **kwargs)

    def call(*args, **kwargs):
        with set_xla_metadata(inlineable="false"):
            return jax.jit(inside)(*args, **kwargs)

    return call


def _after(index: jax.Array, others: PyTree) -> jax.Array:
    """An index that is known once others are computed: what is written there waits for them.

    XLA orders by data alone before it looks for copies to leave out; of a barrier not in a call it
    has made nothing by then.
    """
    return _apart(lambda *args: jax.lax.optimization_barrier(args)[0])(index, others)


def _as_bits(x: jax.Array) -> jax.Array:
    """Shorter floats as integers: XLA:CPU widens a whole buffer of them in every turn of a loop."""
    short = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize == 2
    return jax.lax.bitcast_convert_type(x, jnp.uint16) if short else x


def _from_bits(x: jax.Array, like: jax.Array) -> jax.Array:
    return x if x.dtype == like.dtype else jax.lax.bitcast_convert_type(x, like.dtype)


def _rows_a_turn(matrix: _Matrix, chunk: int) -> int:
    """About ``chunk`` entries, at most half of the rows, as a loop of one turn is none to XLA.

    It is a divisor of the rows if one is near, so that none are left over.
    """
    most = max(1, min(matrix.rows // 2, chunk // matrix.width))
    near = (n for n in range(most, most // 2, -1) if matrix.rows % n == 0)
    return next(near, most)


def _matrix(index: int, param: jax.Array, slots: Sequence[Slot]) -> _Matrix | None:
    """How a parameter and its slots are cut; None if they cannot be."""
    own = [slot for slot in slots if slot.owner == index and slot.codec is not None]
    if not all(slot.codec.local for slot in own):
        return None
    n = param.shape[-1]
    blocks = [s.shape[-1] for slot in own for s in jax.tree.leaves(slot.node.scale)]
    # Where all blocks of all slots are whole, rows may end wherever each of them has a border;
    # otherwise a row of the leaf, with its short last block, is one of the matrix.
    pieces = math.gcd(*blocks) if blocks else math.gcd(n, max(1, n // 256))
    lengths = [n, *(slot.node.code.shape[-1] for slot in own)]
    if any(n % b for b in blocks) or any(length % pieces for length in lengths):
        pieces = 1
    rows = math.prod(param.shape[:-1]) * pieces
    return _Matrix(rows, n // pieces) if rows > 1 else None


def _bundles(params, matrices, chunk) -> Iterator[list[int]]:
    """The leaves that are not cut, together as long as they are small; at least one bundle."""
    bundle, size = [], 0
    for i, p in enumerate(params):
        if matrices[i] is None:
            if bundle and size + p.size > chunk:
                yield bundle
                bundle, size = [], 0
            bundle.append(i)
            size += p.size
    yield bundle


def _empty(x, dtype):
    """An array of zero size with as many axes as x; a scalar if x is one."""
    return jnp.zeros((0,) * x.ndim, dtype)


def _shape(x, ndim) -> tuple[int, ...]:
    """The shape in which rows are shown to the update: with as many axes as their leaf has."""
    if x.ndim == ndim:
        return x.shape
    return (x.size,) if ndim == 1 else (1,) * (ndim - 2) + x.shape
