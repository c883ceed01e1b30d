"""From one codec to another, and from one to float32."""

from typing import Any

import jax

from optlab.base import PyTree
from optlab.transforms.quantized._quantize import QuantizedState, chosen_codecs, encode_state
from optlab.transforms.quantized._record import codec_difference, make_record, read_record
from optlab.transforms.quantized._rules import CodecRule, Where, check_rule, is_encoded, path_text

__all__ = ["check_codecs", "requantize"]


def check_codecs(state: PyTree, like: PyTree) -> None:
    """Checks that a restored state is in the codecs that its optimizer reads.

    Shapes do not tell: most codecs of eight bits have the same ones.

    Args:
        state: as a checkpoint gave it.
        like: a fresh state of the optimizer.

    Raises:
        ValueError: if a leaf is coded otherwise; it names the leaf and both codecs. If one of the
            two has more quantized states in it than the other.

    >>> import optax
    >>> from optlab.transforms.quantized import quantize_states
    >>> x, tx = jax.numpy.ones(4096), optax.trace(0.9)
    >>> states = [quantize_states(tx, codec).init(x) for codec in ("power8", "dynamic8")]
    >>> check_codecs(*states)
    Traceback (most recent call last):
    ValueError: state has trace in power8, not in dynamic8: requantize it.
    """
    records, wishes = _records(state), _records(like)
    if len(records) != len(wishes):
        raise ValueError(
            f"state must have as many quantized states in it as like has, {len(wishes)}, "
            f"got {len(records)}."
        )
    for stored, wanted in zip(records, wishes, strict=True):
        if difference := codec_difference(read_record(stored), read_record(wanted)):
            raise ValueError(f"state has {difference}: requantize it.")


def requantize(
    state: PyTree,
    codec: CodecRule,
    *,
    where: Where | None = None,
    min_size: int | None = None,
    shards: int | None = None,
) -> PyTree:
    """Brings a quantized state into another codec, or into other blocks.

    Args:
        state: with a :class:`QuantizedState` in it, or more of them, of concrete arrays.
        codec: see :func:`quantize_states`; None gives float32.
        where: see :func:`quantize_states`.
        min_size: see :func:`quantize_states`.
        shards: see :func:`quantize_states`.

    Returns:
        The state that :func:`quantize_states` with these arguments reads.

    Raises:
        ValueError: if an argument is malformed, or ``state`` has no :class:`QuantizedState` in it.

    >>> import optax
    >>> from optlab.transforms.quantized import quantize_states
    >>> state = quantize_states(optax.trace(0.9)).init(jax.numpy.ones(4096))
    >>> requantize(state, "dynamic8").inner.trace.code.dtype
    dtype('uint8')
    """
    rule = check_rule(codec)
    if not _records(state):
        raise ValueError("state must have a QuantizedState in it: of a quantized optimizer.")

    def one(node: Any) -> Any:
        if not isinstance(node, QuantizedState):
            return node
        known = read_record(node.codecs)

        def leaf(path, x):
            return known[path_text(path)].decode(x) if is_encoded(x) else x

        inner = jax.tree.map_with_path(leaf, node.inner, is_leaf=is_encoded)
        chosen = chosen_codecs(rule, inner, where, min_size)
        return QuantizedState(encode_state(chosen, inner, shards), make_record(chosen), node.key)

    return jax.tree.map(one, state, is_leaf=lambda node: isinstance(node, QuantizedState))


def _records(state: PyTree) -> list[jax.Array]:
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, QuantizedState))
    return [node.codecs for node in nodes if isinstance(node, QuantizedState)]
