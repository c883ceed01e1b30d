"""How a step finds its batch, shared by all layers."""

from typing import Any

import jax

from optlab.base import PyTree

__all__ = ["nth_batch"]


def nth_batch(batches: PyTree, n: Any, fresh_batches: bool = True) -> PyTree:
    """Gives the n-th of the batches along the leading axis, or what serves every step."""
    return jax.tree.map(lambda leaf: leaf[n], batches) if fresh_batches else batches
