"""Coded leaves inside the variables of Flax nnx.

An ``nnx.Optimizer`` keeps each leaf of a state in a variable, and gives a NamedTuple that lies in
one back as an ``nnx.State``, its own kind of mapping. So under nnx a coded leaf starts as one.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from optlab.base import Encoded, PyTree
from optlab.transforms.quantized._rules import is_encoded

__all__ = ["box_like", "boxer", "unboxed"]


def boxer(params: PyTree) -> Callable[[PyTree], PyTree]:
    """Gives what boxes the coded leaves of a state, if params hold variables; else the identity."""
    paths = jax.tree.leaves_with_path(params)
    in_variables = isinstance(params, Mapping) and any(
        path and isinstance(path[-1], jax.tree_util.GetAttrKey) and path[-1].name == "value"
        for path, _ in paths
    )
    return _boxed(type(params)) if in_variables else lambda state: state


def unboxed(state: PyTree) -> PyTree:
    """Gives a state with its coded leaves as they are."""

    def leaf(node):
        if not _is_box(node):
            return node
        scale = node.get("scale", ())
        if isinstance(scale, Mapping):
            scale = tuple(scale[i] for i in sorted(scale))
        return Encoded(node["code"], scale)

    return jax.tree.map(leaf, state, is_leaf=_is_box)


def box_like(state: PyTree, old: PyTree) -> PyTree:
    """Boxes the coded leaves of a state if those of ``old`` are boxed."""
    boxes = [n for n in jax.tree.leaves(old, is_leaf=_is_box) if _is_box(n)]
    return _boxed(type(boxes[0]))(state) if boxes else state


def _boxed(kind: type) -> Callable[[PyTree], PyTree]:
    def leaf(node):
        if not is_encoded(node):
            return node
        scale = node.scale
        if isinstance(scale, tuple):
            scale = kind(dict(enumerate(scale)))
        return kind({"code": node.code, "scale": scale} if len(scale) else {"code": node.code})

    return lambda state: jax.tree.map(leaf, state, is_leaf=is_encoded)


def _is_box(node: Any) -> bool:
    return (
        isinstance(node, Mapping)
        and type(node) is not dict
        and "code" in node
        and set(node) <= {"code", "scale"}
        and getattr(node["code"], "dtype", None) in (jnp.int8, jnp.uint8, jnp.bfloat16)
    )
