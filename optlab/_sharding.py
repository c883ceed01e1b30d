"""Arrays on explicit meshes, shared by all layers."""

import functools
from collections.abc import Callable

import jax

__all__ = ["gathered", "placed_like", "rows_like", "whole"]


def _is_split(x: jax.Array) -> bool:
    return any(axis is not None for axis in jax.typeof(x).sharding.spec)


def whole(x: jax.Array) -> jax.Array:
    """Gives ``x`` on every device, if it is sharded over explicit mesh axes."""
    return jax.sharding.reshard(x, jax.P(*[None] * x.ndim)) if _is_split(x) else x


def placed_like(x: jax.Array, other: jax.Array) -> jax.Array:
    """Gives ``x`` the dtype of ``other``, and its sharding over explicit mesh axes."""
    x = x.astype(other.dtype)
    return jax.sharding.reshard(x, jax.typeof(other).sharding.spec) if _is_split(other) else x


def rows_like(x: jax.Array, other: jax.Array) -> jax.Array:
    """Splits the first axis of ``x`` over explicit mesh axes as that of ``other`` is."""
    axis = jax.typeof(other).sharding.spec[0] if _is_split(other) else None
    return x if axis is None else jax.sharding.reshard(x, jax.P(axis, *[None] * (x.ndim - 1)))


def gathered(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Lets a function that needs a whole array take one that is sharded over explicit mesh axes.

    On such axes jax refuses to guess how a decomposition, a sort or a reshape is to be sharded. The
    array is gathered on every device, and a result of the same rank goes back to the array's
    sharding. With automatic axes nothing is done: the compiler decides.
    """

    @functools.wraps(function)
    def on_whole(x):
        y = function(whole(x))
        split = _is_split(x) and y.ndim == x.ndim
        return jax.sharding.reshard(y, jax.typeof(x).sharding.spec) if split else y

    return on_whole
