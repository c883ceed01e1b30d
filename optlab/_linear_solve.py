"""The derivative of a linear solve on any tree, shared by the layers that solve."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from optlab.base import PyTree

__all__ = ["custom_linear_solve"]

Map = Callable[[PyTree], PyTree]


def custom_linear_solve(
    matvec: Map, b: PyTree, solve: Callable[[Map, PyTree], PyTree], *, symmetric: bool
) -> PyTree:
    """Gives ``solve(matvec, b)`` the derivative of an exact solve, in both modes, to any order.

    The transpose of :func:`jax.lax.custom_linear_solve` refuses a right-hand side or a product of
    which only some leaves are differentiated, and an answer of which only some are used. Here each
    leaf depends on all.

    Args:
        matvec: the linear map, from trees like ``b`` to trees like ``b``.
        b: right-hand side.
        solve: ``(matvec, b) -> x``, also called with the transposed map.
        symmetric: whether ``matvec`` is its own transpose.

    Returns:
        x, like ``b``.
    """
    x = jax.lax.custom_linear_solve(
        lambda v: _tied(matvec(v)),
        _tied(b),
        solve,
        None if symmetric else solve,
        symmetric=symmetric,
    )
    return _tied(x)


def _tied(tree: PyTree) -> PyTree:
    """The same values, each leaf a linear function of all: a sum over nothing, never computed."""
    zero = sum(jnp.sum(leaf[None][:0]) for leaf in jax.tree.leaves(tree))
    return jax.tree.map(lambda leaf: leaf + zero.astype(leaf.dtype), tree)
