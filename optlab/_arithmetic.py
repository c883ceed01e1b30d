"""Dtypes, bias corrections and the values of schedules, shared by all layers."""

import math
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["bias_correction", "cast_like", "value_at", "wide", "wide_dtype"]


def wide_dtype(x: Any) -> jnp.dtype:
    """Gives float32, or the dtype of ``x`` where that is wider."""
    return jnp.promote_types(x.dtype, jnp.float32)


def wide(tree: Any) -> Any:
    """Gives the leaves in float32, or in their own dtype where that is wider."""
    return jax.tree.map(lambda x: x.astype(wide_dtype(x)), tree)


def cast_like(tree: Any, like: Any) -> Any:
    """Gives the leaves of ``tree`` in the dtypes of ``like``."""
    return jax.tree.map(lambda x, y: jnp.asarray(x, dtype=y.dtype), tree, like)


def value_at(value: Any, count: jax.Array) -> Any:
    """Gives a hyperparameter, a number or a schedule, at a step count."""
    return value(count) if callable(value) else value


def bias_correction(decay: Any, count: jax.Array) -> jax.Array:
    """Gives ``1 - decay**count`` for a count of 1 or more.

    The difference itself would cancel: in float32 it is 0.6 % off at 0.99999 and a count of 1.
    """
    if isinstance(decay, (int, float)):
        log = math.log(decay) if decay > 0 else -math.inf
    else:
        log = jnp.log(decay)
    return -jnp.expm1(count * log)
