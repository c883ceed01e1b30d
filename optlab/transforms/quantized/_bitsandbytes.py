"""States of bitsandbytes' optimizers, taken over whole."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optlab.base import Codec, Encoded, PyTree
from optlab.transforms.quantized._boxes import box_like, unboxed
from optlab.transforms.quantized._quantize import QuantizedState
from optlab.transforms.quantized._record import read_record
from optlab.transforms.quantized._rules import SIGNED, UNSIGNED, bare_path, is_encoded, path_text

__all__ = ["load_bitsandbytes"]

_BLOCK = 256
_WRAPPED = "__bnb_optimizer_quant_state__"  # where state_dict() hides what FSDP must not see


def load_bitsandbytes(
    state: PyTree,
    entries: PyTree,
    *,
    arrange: Callable[[str, np.ndarray], np.ndarray] | None = None,
) -> PyTree:
    """Fills a fresh state with that of an optimizer of bitsandbytes, to go on from there.

    Args:
        state: as ``init`` of a quantized optimizer gave it, with a :class:`QuantizedState` in it.
        entries: like the parameters; each leaf is the parameter's entry, a dict of arrays, in
            ``state_dict()["state"]``: ``step``, ``state1``, and where it has them ``state2``,
            ``absmax1``, ``qmap1`` and so on. Torch's tensors will do if they are on the host.
            For the parameters of a Flax nnx model, dicts with the names of its attributes will do.
        arrange: ``arrange(path, x)`` brings a moment, decoded and in the shape that it has there,
            into that of the parameter at ``path``: a kernel of Flax is the transpose of a weight.
            None if they all have it.

    Returns:
        The state with those moments in its own codecs, and with their count of steps. Where the
        codec is :func:`optlab.codecs.dynamic8`, ``qmap`` its map, 256 divides the last axis and
        nothing is arranged, the codes stay as they are.

    Raises:
        ValueError: if a moment has no counterpart there, or another shape than it; if ``entries``
            has no entry, or ``state`` no :class:`QuantizedState`.

    >>> from optlab.transforms.quantized import lion8bit
    >>> state = lion8bit(1e-3, codec="dynamic8", min_size=1).init({"w": jnp.zeros((1, 256))})
    >>> code, absmax = np.full((1, 256), 255), np.full(1, 2.0)
    >>> qmap = np.linspace(-1.0, 1.0, 256)
    >>> entry = {"step": 7, "state1": code, "absmax1": absmax, "qmap1": qmap}
    >>> new = load_bitsandbytes(state, {"w": entry})
    >>> int(new.inner[0].count), new.inner[0].mu["w"].scale.tolist()
    (7, [[2.0]])

    References:
        T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise
        Quantization", ICLR 2022, arXiv:2110.02861
    """
    found = [
        (bare_path(path), {**entry, **entry.get(_WRAPPED, {})})
        for path, entry in jax.tree.leaves_with_path(entries, is_leaf=_is_entry)
    ]
    if not found:
        raise ValueError("entries must have a dict with 'state1' for each parameter, got none.")
    nodes, _ = jax.tree.flatten(state, is_leaf=_is_quantized)
    if not any(map(_is_quantized, nodes)):
        raise ValueError("state must have a QuantizedState in it: init of a quantized optimizer.")
    steps = max(int(entry["step"]) for _, entry in found)

    def one(node: Any) -> Any:
        if not _is_quantized(node):
            return node
        codecs = read_record(node.codecs)

        def leaf(path, x):
            if not is_encoded(x) and not jnp.issubdtype(x.dtype, jnp.floating):
                return jnp.full_like(x, steps) if path_text(path).endswith("count") else x
            end, entry = _of_parameter(bare_path(path), found)
            part = _part(bare_path(path), end, entry)
            codec = codecs.get(path_text(path))
            if codec is not None and arrange is None and part.has_codes_of(codec, x):
                return Encoded(
                    jnp.asarray(part.state), jnp.asarray(part.absmax.reshape(x.scale.shape))
                )
            moment = part.decode() if arrange is None else arrange(path_text(end), part.decode())
            shape = x.shape if codec is None else jax.eval_shape(codec.decode, x).shape
            if moment.shape != shape:
                raise ValueError(
                    f"entries must give {path_text(path)} the shape {shape}, got {moment.shape}: "
                    "arrange it."
                )
            value = jnp.asarray(moment, jnp.float32)
            return value.astype(x.dtype) if codec is None else codec.refit(x, shape).encode(value)

        inner = jax.tree.map_with_path(leaf, unboxed(node.inner), is_leaf=is_encoded)
        return QuantizedState(box_like(inner, node.inner), node.codecs, node.key)

    return jax.tree.map(one, state, is_leaf=_is_quantized)


def _is_quantized(node: Any) -> bool:
    return isinstance(node, QuantizedState)


def _is_entry(node: Any) -> bool:
    return isinstance(node, Mapping) and ("state1" in node or _WRAPPED in node)


def _of_parameter(path, found):
    """The path and entry of the parameter whose path ends that of a leaf of the state."""
    ends = [(end, entry) for end, entry in found if path[len(path) - len(end) :] == end]
    if not ends:
        raise ValueError(f"entries must have the parameter of {path_text(path)}, which they lack.")
    return max(ends, key=lambda pair: len(pair[0]))


class _Part(NamedTuple):
    """A moment as bitsandbytes keeps it."""

    state: np.ndarray  # codes, uint8; float32 if it is small
    absmax: np.ndarray | None  # one for each 256 entries of the flattened codes
    qmap: np.ndarray | None  # the value of each code
    signed: bool

    def decode(self) -> np.ndarray:
        """Gives it in float32."""
        if self.absmax is None:
            return np.asarray(self.state, np.float32)
        scale = self.absmax.repeat(_BLOCK)[: self.state.size].reshape(self.state.shape)
        return np.asarray(self.qmap, np.float32)[self.state] * scale

    def has_codes_of(self, codec: Codec, node: Encoded) -> bool:
        """Whether a codec would read the codes as they are, in the place of those of a node.

        Coded anew they might differ: the map has no -1 for a block whose largest entry is negative.
        """
        every = Encoded(jnp.arange(_BLOCK, dtype=jnp.uint8)[None], jnp.ones((1, 1)))
        return (
            codec.name == "dynamic8"
            and codec.signed == self.signed
            and self.absmax is not None
            and (self.state.shape, self.state.dtype) == (node.code.shape, node.code.dtype)
            and node.scale.dtype == self.absmax.dtype
            and node.scale.size * _BLOCK == self.state.size
            and np.allclose(self.qmap, codec.decode(every), rtol=0.0, atol=1e-6)
        )


def _part(path, end, entry: Mapping[str, Any]) -> _Part:
    """The moment of the field that a path goes through."""
    fields = [
        key.name
        for key in path[: len(path) - len(end)]
        if isinstance(key, jax.tree_util.GetAttrKey)
    ]
    field = fields[-1] if fields else ""
    if field not in SIGNED + UNSIGNED:
        raise ValueError(f"state must have nothing but moments, got {path_text(path)}.")
    which = "2" if field in UNSIGNED and "state2" in entry else "1"
    state, absmax, qmap = (
        np.asarray(entry[name]) if name in entry else None
        for name in (f"state{which}", f"absmax{which}", f"qmap{which}")
    )
    if field in ("m1", "m2"):  # of AdEMAMix, one above the other
        one = ("m1", "m2").index(field)
        state, absmax = state[one], None if absmax is None else absmax[one]
    return _Part(state, absmax, qmap, signed=which == "1")
