"""What the learning-rate-free methods share: numbers for the whole tree, in float32 or wider."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import bias_correction, wide, wide_dtype

__all__ = [
    "adam_correction",
    "decayed",
    "dot",
    "grown",
    "l1_norm",
    "ratio",
    "scalar",
    "zeros",
]


def zeros(params: Any) -> Any:
    """Gives zeros with the shapes of ``params``, in float32 or wider.

    The state is never narrower: the estimates are ratios of long sums, of which bfloat16 would lose
    every new term.
    """
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=wide_dtype(p)), params)


def scalar(value: Any, params: Any) -> jax.Array:
    """Gives a new scalar in the widest dtype of ``params``, float32 at least."""
    dtypes = (p.dtype for p in jax.tree.leaves(params))
    return jnp.array(value, dtype=functools.reduce(jnp.promote_types, dtypes, jnp.float32))


def dot(a: Any, b: Any) -> jax.Array | float:
    """The inner product of two trees; 0 if they are empty."""
    return sum(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)), start=0.0)


def l1_norm(tree: Any) -> jax.Array | float:
    """The sum of the magnitudes of all entries."""
    return sum((jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(tree)), start=0.0)


def ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """The quotient of two scalars, and 0 where the denominator is: nothing is known yet."""
    empty = denominator == 0
    return jnp.where(empty, 0.0, numerator / jnp.where(empty, 1.0, denominator))


def grown(d: jax.Array, estimate: jax.Array, growth_rate: float) -> jax.Array:
    """Lets ``d`` rise to the estimate, at most by the factor ``growth_rate``, and never fall."""
    return jnp.maximum(d, jnp.minimum(estimate, d * growth_rate))


def adam_correction(b1: float, b2: float, count: jax.Array) -> jax.Array:
    """Adam's correction of both moments, as a factor of the step."""
    return jnp.sqrt(bias_correction(b2, count)) / bias_correction(b1, count)


def decayed(updates: Any, params: Any, weight_decay: Any, mask: Any | None) -> Any:
    """Adds ``weight_decay`` times ``params`` where the mask holds."""
    if params is None:
        raise ValueError("params must be given to the update.")
    tx = optax.add_decayed_weights(weight_decay, mask)
    return tx.update(updates, tx.init(params), wide(params))[0]
