"""What a quantized state holds, and how far it is from float32."""

from typing import Any

import jax
import jax.numpy as jnp

from optlab.base import PyTree
from optlab.transforms.quantized._quantize import QuantizedState
from optlab.transforms.quantized._record import read_record
from optlab.transforms.quantized._rules import is_encoded, path_text

__all__ = ["explain", "quantization_error", "state_bytes"]


def state_bytes(state: PyTree) -> int:
    """Counts the bytes of all arrays of a state.

    Args:
        state: of any transform, or the shapes that ``jax.eval_shape`` gives of it.

    Returns:
        Their sum.

    >>> state_bytes({"mu": jnp.zeros(3), "count": jnp.zeros((), jnp.int32)})
    16
    """
    return sum(x.size * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(state))


def quantization_error(state: PyTree, exact: PyTree) -> dict[str, float]:
    r"""Tells how far each coded leaf is from the one it stands for.

    Args:
        state: with a :class:`QuantizedState` in it, or more of them.
        exact: the same states in float32, as the wrapped transform keeps them, in place of each
            :class:`QuantizedState`.

    Returns:
        :math:`\|D(c) - x\| / \|x\|` by the leaf's path; 0 where both are zero.

    Raises:
        ValueError: if ``exact`` lacks a coded leaf, or has another shape there.

    >>> import optax
    >>> from optlab.transforms.quantized import quantize_states
    >>> tx, x = optax.trace(0.9), jnp.linspace(-1.0, 1.0, 4096)
    >>> state = quantize_states(tx).update(x, quantize_states(tx).init(x))[1]
    >>> round(quantization_error(state, tx.update(x, tx.init(x))[1])["trace"], 3)
    0.005
    """
    errors = {}
    nodes, structure = jax.tree.flatten_with_path(state, is_leaf=_is_quantized)
    try:
        exacts = structure.flatten_up_to(exact)
    except ValueError as error:
        raise ValueError(f"exact must have the structure of state: {error}") from error
    for (path, node), like in zip(nodes, exacts, strict=True):
        if _is_quantized(node):
            decoded = _decoded(node)
            wanted = {path_text(p): x for p, x in jax.tree.leaves_with_path(like)}
            for name, x in decoded.items():
                if name not in wanted or wanted[name].shape != x.shape:
                    raise ValueError(
                        f"exact must have an array of shape {x.shape} at {name}, as the wrapped "
                        "transform has."
                    )
                norm = jnp.linalg.norm(wanted[name])
                error = jnp.linalg.norm(x - wanted[name]) / jnp.where(norm > 0, norm, 1.0)
                errors[_join(path_text(path), name)] = float(error)
    return errors


def explain(state: PyTree, exact: PyTree | None = None) -> str:
    """Draws up a table of what a state holds.

    Args:
        state: of any transform; codecs are told of each :class:`QuantizedState` in it.
        exact: see :func:`quantization_error`; without it there is no column of errors.

    Returns:
        A table in Markdown: a leaf a line, with its shape, codec, bytes and error.

    >>> import optax
    >>> from optlab.transforms.quantized import quantize_states
    >>> print(explain(quantize_states(optax.trace(0.9)).init({"w": jnp.ones((16, 512))})))
    | leaf | shape | codec | bytes |
    |---|---|---|---|
    | inner/trace/w | 16 x 512 | power8 | 8,320 |
    | codecs | 126 | uint8 | 126 |
    | all | | | 8,446 |
    """
    errors = {} if exact is None else quantization_error(state, exact)
    rows = []
    for path, node in jax.tree.leaves_with_path(state, is_leaf=_is_quantized):
        if not _is_quantized(node):
            rows.append((path_text(path), node, str(node.dtype), ""))
            continue
        codecs = read_record(node.codecs)
        for inside, leaf in jax.tree.leaves_with_path(node, is_leaf=is_encoded):
            name = path_text(inside).removeprefix("inner/")
            kept = codecs[name].name if is_encoded(leaf) else str(leaf.dtype)
            full = _join(path_text(path), name)
            error = f"{errors[full]:.2g}" if full in errors else ""
            rows.append((_join(path_text(path), path_text(inside)), leaf, kept, error))
    lines = ["| leaf | shape | codec | bytes |", "|---|---|---|---|"]
    if exact is not None:
        lines = [line + extra for line, extra in zip(lines, (" error |", "---|"), strict=True)]
    end = "" if exact is None else " {} |"
    for name, leaf, kept, error in rows:
        code = leaf.code if is_encoded(leaf) else leaf
        shape = " x ".join(map(str, code.shape)) or "scalar"
        lines.append(f"| {name} | {shape} | {kept} | {state_bytes(leaf):,} |{end.format(error)}")
    lines.append(f"| all | | | {state_bytes(state):,} |{end.format('')}")
    return "\n".join(lines)


def _join(*parts: str) -> str:
    return "/".join(filter(None, parts))


def _is_quantized(node: Any) -> bool:
    return isinstance(node, QuantizedState)


def _decoded(state: QuantizedState) -> dict[str, jax.Array]:
    codecs = read_record(state.codecs)
    return {
        path_text(path): codecs[path_text(path)].decode(node)
        for path, node in jax.tree.leaves_with_path(state.inner, is_leaf=is_encoded)
        if is_encoded(node)
    }
