"""Which rows a step of a bilevel run sees: a pure function of the key and the step."""

import jax
import jax.numpy as jnp

from optlab.base import PyTree

__all__ = ["batch_count", "batch_number", "cut"]


def batch_count(data: PyTree, size: int) -> int:
    """Gives how many batches the rows make; those that fill none are never seen. 0 takes all."""
    rows = jax.tree.leaves(data)[0].shape[0]
    return 1 if size == 0 else rows // size


def batch_number(key: jax.Array, draw: jax.Array, count: int) -> jax.Array:
    """Gives the number of the batch of a draw: every epoch goes through all in an order of its own.

    Args:
        key: of the run and the level.
        draw: counted from 0 over the whole run.
        count: of the batches.

    Returns:
        A number in ``[0, count)``, shape ``()``, dtype int32.
    """
    order = jax.random.permutation(jax.random.fold_in(key, draw // count), count)
    return order[draw % count].astype(jnp.int32)


def cut(data: PyTree, number: jax.Array, size: int) -> PyTree:
    """Gives the rows of a batch; a run of neighbours is cheaper to take than scattered rows."""
    if size == 0:
        return data
    return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, number * size, size), data)
