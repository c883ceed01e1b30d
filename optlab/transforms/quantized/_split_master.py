"""Parameters in bfloat16 with their lower digits in eight bits, or rounded at random."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab.codecs import stochastic_round
from optlab.transforms.quantized._quantize import split_key

__all__ = [
    "SplitMasterState",
    "StochasticRoundState",
    "split_master",
    "stochastic_round_bf16",
]


class SplitMasterState(NamedTuple):
    """State of :func:`split_master`: 1 byte a bfloat16 parameter beside the inner state."""

    inner: optax.OptState  # of the wrapped optimizer, dtype=float32
    residual: optax.Updates  # like params, dtype=int8: the error of rounding, in 254ths of a unit


class StochasticRoundState(NamedTuple):
    """State of :func:`stochastic_round_bf16`."""

    inner: optax.OptState  # of the wrapped optimizer, dtype=float32
    key: jax.Array  # raw key data, dtype=uint32


def split_master(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""Lets an optimizer train bfloat16 parameters as if they had 24 bits.

    The optimizer sees the float32 master weights

    .. math::
        x = p + \frac{e}{254}\, u(p), \qquad e \in \{-127, \dots, 127\}

    with u(p) the distance of neighbours of the bfloat16 parameter p. Its update moves x; p becomes
    the bfloat16 that is nearest to it, and e tells the rest to a 254th of u: three bytes a
    parameter for weights that would take six in bfloat16 and float32.

    Args:
        tx: any optimizer, such as :func:`adamw8bit`; it sees parameters and gradients in float32.

    Returns:
        A transformation; its updates take bfloat16 parameters to bfloat16 ones exactly under
        ``optax.apply_updates``. Leaves of other dtypes are left to ``tx``. NaN and inf stay.

    Raises:
        ValueError: if ``update`` is called without ``params``.

    >>> tx = split_master(optax.sgd(1.0))
    >>> params = jnp.ones(1, jnp.bfloat16)
    >>> state = tx.init(params)
    >>> for _ in range(8):
    ...     updates, state = tx.update(jnp.full(1, -1e-3), state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> params.tolist()  # rounding alone would stay at 1.0
    [1.0078125]

    References:
        Databricks, "FlashOptim", 2026, https://github.com/databricks/flashoptim

    Differs from the released code: the same step of a 254th of a unit on either side of a power of
    two, where the lower neighbour is half as far: there the rest is told to a 508th of that side.
    """
    tx = optax.with_extra_args_support(tx)

    def init(params):
        residual = jax.tree.map(
            lambda p: jnp.zeros_like(p, jnp.int8) if p.dtype == jnp.bfloat16 else None, params
        )
        return SplitMasterState(tx.init(optax.tree.cast(params, jnp.float32)), residual)

    def update(updates, state, params=None, **extra):
        if params is None:
            raise ValueError("params must be given to split_master's update.")
        master = jax.tree.map(_master, params, state.residual)
        grads = optax.tree.cast(updates, jnp.float32)
        new, inner = tx.update(grads, state.inner, master, **extra)
        moved = jax.tree.map(jnp.add, master, new)
        target = jax.tree.map(lambda x, p: x.astype(p.dtype), moved, params)
        residual = jax.tree.map(_residual, moved, target, state.residual)
        return jax.tree.map(_difference, target, params), SplitMasterState(inner, residual)

    return optax.GradientTransformationExtraArgs(init, update)


def stochastic_round_bf16(
    tx: optax.GradientTransformation, seed: int = 0
) -> optax.GradientTransformationExtraArgs:
    """Lets an optimizer train bfloat16 parameters, which are rounded at random after each step.

    Steps far below the distance of neighbours then count in the mean, at no memory.

    Args:
        tx: any optimizer; it sees parameters and gradients in float32.
        seed: of the rounding.

    Returns:
        A transformation; its updates take bfloat16 parameters to bfloat16 ones exactly under
        ``optax.apply_updates``. Leaves of other dtypes are left to ``tx``.

    Raises:
        ValueError: if ``update`` is called without ``params``.

    >>> tx = stochastic_round_bf16(optax.sgd(1.0))
    >>> params = jnp.ones(1000, jnp.bfloat16)
    >>> updates, _ = tx.update(jnp.full(1000, -1e-3), tx.init(params), params)
    >>> sorted(set((params + updates).tolist()))
    [1.0, 1.0078125]

    References:
        S. Gupta et al., "Deep Learning with Limited Numerical Precision", ICML 2015,
        arXiv:1502.02551
    """
    tx = optax.with_extra_args_support(tx)

    def init(params):
        key = jax.random.key_data(jax.random.key(seed))
        return StochasticRoundState(tx.init(optax.tree.cast(params, jnp.float32)), key)

    def update(updates, state, params=None, **extra):
        if params is None:
            raise ValueError("params must be given to stochastic_round_bf16's update.")
        key, rest = split_key(state.key)
        master, grads = (optax.tree.cast(tree, jnp.float32) for tree in (params, updates))
        new, inner = tx.update(grads, state.inner, master, **extra)
        keys = optax.tree.split_key_like(key, params)

        def leaf(x, u, p, k):
            moved = x + u
            if p.dtype == jnp.bfloat16:
                moved = stochastic_round(moved, jnp.bfloat16, k)
            return _difference(moved.astype(p.dtype), p)

        return jax.tree.map(leaf, master, new, params, keys), StochasticRoundState(inner, rest)

    return optax.GradientTransformationExtraArgs(init, update)


def _difference(new: Any, old: Any) -> jax.Array:
    """In float32, in which the difference of two bfloat16 numbers is nearly always exact."""
    return new.astype(jnp.float32) - old.astype(jnp.float32)


def _master(p, e):
    x = p.astype(jnp.float32)
    return x if e is None else x + e.astype(jnp.float32) * (_unit(p) * (1 / 254))


def _residual(x, p, e):
    if e is None:
        return None
    unit = _unit(p)
    rest = (x - p.astype(jnp.float32)) / jnp.where(unit > 0, unit, 1.0)
    rest = jnp.where(jnp.isfinite(rest), rest, 0.0)
    return jnp.clip(jnp.round(254 * rest), -127, 127).astype(jnp.int8)


def _unit(p):
    """The distance from a bfloat16 number to the next larger one of its decade."""
    bits = jax.lax.bitcast_convert_type(p, jnp.uint16)
    exponent = (bits & jnp.uint16(0x7F80)).astype(jnp.uint16)
    power = jax.lax.bitcast_convert_type(exponent, jnp.bfloat16).astype(jnp.float32)
    return power * 2.0**-7
