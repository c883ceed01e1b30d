"""Steps in place: a transform that carries a third function beside ``init`` and ``update``."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from optlab._checks import check_count
from optlab.base import Params, PyTree
from optlab.codecs import stochastic_round
from optlab.transforms.quantized._boxes import box_like, unboxed
from optlab.transforms.quantized._pallas import check_codec
from optlab.transforms.quantized._quantize import QuantizedState, quantize_states, split_key
from optlab.transforms.quantized._reach import reach
from optlab.transforms.quantized._rules import CodecRule, Where, check_rule, choose, is_encoded
from optlab.transforms.quantized._stream import Slot, stream
from optlab.transforms.quantized._wrong_input import check_state, check_transform

__all__ = ["CHUNK", "FusedTransformation", "fuse", "fused", "mask_of", "step"]

CHUNK = 1 << 18  # entries


class FusedTransformation(optax.GradientTransformationExtraArgs):
    """An optax transformation that can also update parameters and states in place.

    It is a pair ``(init, update)`` like every other one; wrapped by optax it loses its ``step``.
    What ``update`` is told by ``in_place=True`` reaches it from any wrapper.

    Attributes:
        step: ``params, state = step(params, grads, state, *, shardings=None, rounding=None,
            backend="xla", **extra)``.
    """

    step: Callable[..., tuple[Params, QuantizedState]]

    def __new__(cls, init, update, step):
        """Makes the pair, and hangs ``step`` on it."""
        self = super().__new__(cls, init, update)
        self.step = step
        return self


def fused(
    tx: optax.GradientTransformation,
    codec: CodecRule = "power8",
    *,
    where: Where | None = None,
    min_size: int | None = None,
    shards: int | None = None,
    seed: int | None = None,
    by: str = "entry",
    chunk: int = CHUNK,
) -> FusedTransformation:
    """As :func:`quantize_states`, with a ``step`` that never holds the state in float32.

    ``params, state = tx.step(params, grads, state)`` goes through the parameters chunk by chunk,
    and overwrites them and the state where both are donated to the ``jit`` around it. It takes as
    much memory beside them as a chunk needs, however many leaves there are: for AdamW on 16 million
    parameters 2.3 bytes a parameter, state and temporaries, where optax takes 8 and a plain
    ``update`` 12.

    On sharded parameters each device goes through its own part, without a collective. ``step``
    knows the shardings on explicit mesh axes, and outside of ``jit``; elsewhere they are its
    argument ``shardings``, a tree of :class:`jax.sharding.NamedSharding` like the parameters. Where
    a block straddles two devices, or the transform works by leaf, it takes the plain update.

    Where others apply the updates, ``tx.update(grads, state, params, in_place=True)`` needs no more
    memory: it writes them over the gradients, which are then to be donated, in their dtype. It
    takes ``shardings`` as ``step`` does.

    Given a key of ``jax.random`` as its argument ``rounding``, ``step`` works in float32 on
    parameters in bfloat16, which it then rounds stochastically.

    With ``backend="pallas"`` and ``by="entry"``, ``step`` takes large float32 leaves in blocks of
    2^k entries, up to 2,048, through a kernel on a GPU, which reads and writes every byte once: 16
    a parameter for Adam. It goes through other leaves as ever, and raises a ValueError for what the
    kernel cannot do at all: some codecs, stochastic rounding, schedules without
    :func:`optax.inject_hyperparams`. No GPU has timed it yet, so it is no default. On a CPU it is
    interpreted, which takes long, and of which it warns; on a TPU it raises a ValueError.

    Args:
        tx: a transform that acts on each entry by itself, or on each leaf. What couples leaves,
            such as clipping by a global norm, comes before it: apply it to the gradients.
        codec: see :func:`quantize_states`.
        where: see :func:`quantize_states`.
        min_size: see :func:`quantize_states`.
        shards: see :func:`quantize_states`.
        seed: see :func:`quantize_states`.
        by: ``"entry"``, or ``"leaf"`` for a transform that needs whole leaves, such as Muon: the
            memory is then that of the largest one. Masks and labels given as functions are asked
            about chunks, with all their axes but not their sizes, among leaves that are None or
            empty: give them as trees if sizes or other leaves matter.
        chunk: about how many entries are worked on at a time.

    Returns:
        The transformation. Scalars among the extra arguments of ``step`` reach ``tx``.

    Raises:
        ValueError: if an argument is malformed, or if a trial shows that ``tx`` does not act by
            entry, or by leaf.

    >>> tx = fused(optax.lion(1e-3))
    >>> params = {"w": jnp.ones((64, 256))}
    >>> params, state = jax.jit(tx.step)(params, params, tx.init(params))
    >>> round(float(params["w"][0, 0]), 4), state.inner[0].mu["w"].code.dtype
    (0.999, dtype('int8'))

    References:
        T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise
        Quantization", ICLR 2022, arXiv:2110.02861

    Differs from the paper: see :func:`quantize_states`.
    """
    check_transform(tx)
    if by not in ("entry", "leaf"):
        raise ValueError(f"by must be 'entry' or 'leaf', got {by!r}.")
    check_count("chunk", chunk, 1)
    found = reach(tx)
    if found == "tree" or (by == "entry" and found == "leaf"):
        raise ValueError(f"tx acts by {found}: by={by!r} would give other results.")
    return fuse(
        lambda params: tx,
        codec,
        where=where,
        min_size=min_size,
        shards=shards,
        seed=seed,
        by=by,
        chunk=chunk,
    )


def fuse(
    make: Callable[[Params], optax.GradientTransformation],
    codec: CodecRule,
    *,
    by: str | None,
    chunk: int = CHUNK,
    **options: Any,
) -> FusedTransformation:
    """See :func:`fused`; ``make`` gives the transform for params, so that masks are made of them.

    ``by=None`` is for transforms that work on whole trees: their step is the plain update.
    """
    rule = check_rule(codec)

    def plain(params):
        return quantize_states(make(params), rule, **options)

    def init(params):
        return plain(params).init(params)

    def update(updates, state, params=None, *, in_place=False, shardings=None, **extra):
        if in_place:
            if params is None:
                raise ValueError("params must be given where in_place=True.")
            return go(params, updates, state, extra, shardings=shardings, adds=False)
        return plain(updates if params is None else params).update(updates, state, params, **extra)

    def step(params, grads, state, *, shardings=None, rounding=None, backend="xla", **extra):
        _check_rounding(rounding)
        return go(
            params, grads, state, extra, shardings=shardings, rounding=rounding, backend=backend
        )

    def go(params, grads, state, extra, *, shardings, rounding=None, backend="xla", adds=True):
        """The step, or the update, which takes the gradients' place."""
        check_state(rule, state)
        params, grads = (jax.tree.map(jnp.asarray, x) for x in (params, grads))
        leaves, tree = jax.tree.flatten(params)
        _check_grads(grads, leaves, tree)
        shardings = (
            [_sharding(p) for p in leaves] if shardings is None else jax.tree.leaves(shardings)
        )
        slots, states = _slots(rule, unboxed(state.inner), params)
        split = [s for s in shardings if _is_split(s)]
        _check_backend(backend, by, slots, state, rounding)
        apart = all(_falls_apart(slot, leaves, shardings) for slot in slots)
        if by is None or (split and (by == "leaf" or not apart)):
            tx = plain(params)
            if not adds:
                return tx.update(grads, state, params, **extra)
            return step_plainly(tx, params, grads, state, rounding=rounding, **extra)

        tx = optax.with_extra_args_support(make(params))
        scalars = {k: v for k, v in extra.items() if isinstance(v, _NUMBERS) and jnp.ndim(v) == 0}
        # Flags of Python's stay that, also where arrays alone reach a device.
        fixed = {k: v for k, v in scalars.items() if isinstance(v, (bool, int, float))}
        scalars = {k: v for k, v in scalars.items() if k not in fixed}
        key, rest = split_key(state.key)

        def local(written, read, nodes, keys, scalars):
            def update(written, read, values, scalars):
                params, grads = (written, read) if adds else (read, written)
                updates, new = tx.update(
                    tree.unflatten(grads),
                    states.unflatten(values),
                    tree.unflatten(params),
                    **fixed,
                    **scalars,
                )
                return tree.flatten_up_to(updates), states.flatten_up_to(new)

            own = [slot._replace(node=node) for slot, node in zip(slots, nodes, strict=True)]
            # Taking apart codes that share a byte needs as much memory again, and so do updates
            # that wait until the codes are made of what they overwrite.
            waits = not adds or any(_is_packed(slot, written) for slot in own)
            size = chunk // 2 if waits else chunk
            key, rounding = keys
            return stream(
                update,
                written,
                read,
                own,
                scalars,
                key=key,
                rounding=rounding,
                chunk=size,
                cut=by == "entry",
                kernel=backend == "pallas",
                adds=adds,
            )

        if split:
            of_params = [s.spec for s in shardings]
            of_nodes = [_spec(slot, of_params) for slot in slots]
            local = jax.shard_map(
                local,
                mesh=split[0].mesh,
                in_specs=(of_params, of_params, of_nodes, P(), P()),
                out_specs=(of_params, of_nodes),
                check_vma=False,
            )
        nodes = [slot.node for slot in slots]
        both = (leaves, tree.flatten_up_to(grads))
        new, nodes = local(*(both if adds else both[::-1]), nodes, (key, rounding), scalars)
        inner = box_like(states.unflatten(nodes), state.inner)
        return tree.unflatten(new), QuantizedState(inner, state.codecs, rest)

    return FusedTransformation(init, update, step)


def step(
    tx: optax.GradientTransformation, params: Params, grads: PyTree, state: PyTree, **extra: Any
) -> tuple[Params, PyTree]:
    """Takes a step with any transform: in place, where it can.

    Args:
        tx: a transform; one with a ``step`` of its own, as :func:`fused` gives it, uses that.
        params: to be updated.
        grads: like ``params``.
        state: of ``tx``.
        **extra: goes to ``tx``; one that takes none ignores them.

    Returns:
        The new params and state.

    >>> params, state = step(optax.sgd(0.5), jnp.ones(2), jnp.ones(2), optax.sgd(0.5).init(None))
    >>> params.tolist()
    [0.5, 0.5]
    """
    check_transform(tx)
    if isinstance(tx, FusedTransformation):
        return tx.step(params, grads, state, **extra)
    return step_plainly(tx, params, grads, state, **extra)


def mask_of(mask: Any, params: Params) -> Any:
    """Gives a mask, or labels, as a tree: a function is asked about whole leaves, not chunks."""
    return mask(params) if callable(mask) else mask


def step_plainly(tx, params, grads, state, *, rounding=None, **extra):
    """Takes a step by ``update`` and ``optax.apply_updates``."""
    tx, old = optax.with_extra_args_support(tx), params
    if rounding is not None:
        params, grads = (optax.tree.cast(tree, jnp.float32) for tree in (params, grads))
    updates, state = tx.update(grads, state, params, **extra)
    new = optax.apply_updates(params, updates)
    if rounding is not None:
        keys = optax.tree.split_key_like(rounding, old)
        new = jax.tree.map(lambda x, p, k: stochastic_round(x, p.dtype, k), new, old, keys)
    return new, state


def _check_grads(grads, params, tree):
    try:
        leaves = tree.flatten_up_to(grads)
    except (ValueError, TypeError):
        found = jax.tree.structure(grads)
        raise TypeError(f"grads must have the structure of params, {tree}, got {found}.") from None
    paths = [path for path, _ in jax.tree.leaves_with_path(tree.unflatten(params))]
    for path, g, p in zip(paths, leaves, params, strict=True):
        if jnp.shape(g) != p.shape:
            raise TypeError(
                f"grads must have the shapes of params, {p.shape} at "
                f"{jax.tree_util.keystr(path) or 'the root'}, got {jnp.shape(g)}."
            )


def _check_rounding(key):
    try:
        jax.eval_shape(lambda: None if key is None else jax.random.fold_in(key, 0))
    except (ValueError, TypeError):
        raise ValueError(f"rounding must be a key of jax.random, got {key!r}.") from None


def _check_backend(backend, by, slots, state, rounding):
    if backend == "xla":
        return
    if backend != "pallas":
        raise ValueError(f"backend must be 'xla' or 'pallas', got {backend!r}.")
    device = jax.default_backend()
    if device not in ("cpu", "gpu"):
        raise ValueError(f"backend must be 'xla' on a {device.upper()}: the kernel is for GPUs.")
    if by != "entry":
        raise ValueError("backend must be 'xla' for a transform that does not act by entry.")
    if rounding is not None or not isinstance(state.key, tuple):
        raise ValueError("backend must be 'xla' for stochastic rounding.")
    if any(map(_is_schedule, jax.tree.leaves(state.inner, is_leaf=_is_schedule))):
        # optax multiplies by a copy of the rate, and Pallas has no word for copies in Triton.
        raise ValueError(
            "backend must be 'xla' for a learning_rate that is a schedule of optax's own: with "
            "fused(optax.inject_hyperparams(optax.adamw)(schedule)) the kernel takes it."
        )
    for slot in slots:
        if slot.codec is not None:
            check_codec(slot.codec)
    if device == "cpu":
        warnings.warn(
            "backend='pallas' is interpreted on a CPU, which takes long: 'xla' is for use there.",
            stacklevel=3,  # the caller of step
        )


def _is_schedule(node):
    return isinstance(node, optax.ScaleByScheduleState)


_NUMBERS = (bool, int, float, np.generic, np.ndarray, jax.Array)


def _sharding(x) -> NamedSharding:
    """Of an array; of a traced one, what its type says, which is all on explicit mesh axes."""
    return jax.typeof(x).sharding if isinstance(x, jax.core.Tracer) else x.sharding


def _is_split(sharding) -> bool:
    """Whether axes of an array lie on axes of a mesh, if only of one device: types carry those."""
    return isinstance(sharding, NamedSharding) and any(axis is not None for axis in sharding.spec)


def _slots(rule, state, params) -> tuple[list[Slot], Any]:
    """The leaves of a state, and its structure."""
    nodes, structure = jax.tree.flatten_with_path(state, is_leaf=is_encoded)
    ends = jax.tree.leaves_with_path(params)
    slots = []
    for path, node in nodes:
        codec = choose(rule, state, path) if is_encoded(node) else None
        slots.append(Slot(node, codec, _owner(path, node, ends)))
    return slots, structure


def _owner(path, node, params) -> int | None:
    """The parameter whose path ends that of a leaf of the state; the longest one if several do.

    A count of steps is no parameter's own, though one may have its name.
    """
    code = node.code if is_encoded(node) else node
    if code.ndim == 0 and jnp.issubdtype(code.dtype, jnp.integer):
        return None
    found = [
        i
        for i, (end, p) in enumerate(params)
        if path[len(path) - len(end) :] == end and (end or _is_alike(code, p))
    ]
    return max(found, key=lambda i: len(params[i][0]), default=None)


def _is_alike(code, param) -> bool:
    """Whether an array has the form of a parameter; codes that share a byte are fewer."""
    return code.ndim == param.ndim and code.shape[:-1] == param.shape[:-1]


def _is_packed(slot, params) -> bool:
    """Whether two codes of a slot share a byte."""
    if slot.codec is None or slot.owner is None:
        return False
    return slot.node.code.shape[-1] < params[slot.owner].shape[-1]


def _falls_apart(slot, params, shardings) -> bool:
    """Whether no block of a slot straddles two devices."""
    if slot.codec is None or slot.owner is None or shardings[slot.owner].is_fully_replicated:
        return True
    shape = params[slot.owner].shape
    parts = shape[-1] // max(shardings[slot.owner].shard_shape(shape)[-1], 1)
    if not slot.codec.local or slot.node.code.shape[-1] % parts:
        return False
    blocks = [s.shape[-1] for s in jax.tree.leaves(slot.node.scale)]
    return parts == 1 or all(b % parts == 0 and shape[-1] % b == 0 for b in blocks)


def _spec(slot, of_params):
    """The partition of a slot: that of its parameter, for codes and scales alike."""
    if slot.owner is None:
        return jax.tree.map(lambda _: P(), slot.node)
    return jax.tree.map(lambda _: of_params[slot.owner], slot.node)
