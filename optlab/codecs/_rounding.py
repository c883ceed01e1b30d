"""bfloat16, rounded to nearest or at random."""

import dataclasses
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from optlab.base import Encoded
from optlab.codecs._blocks import check_array

__all__ = ["bfloat16", "float32", "stochastic_round"]


def stochastic_round(x: jax.Array, dtype: Any, key: jax.Array) -> jax.Array:
    """Rounds to bfloat16, up or down at random, so that the mean over keys is ``x``.

    Args:
        x: dtype float32; infinities and NaN stay what they are.
        dtype: bfloat16; float32 gives ``x`` back.
        key: of ``jax.random``.

    Returns:
        One of the two neighbours of each entry, itself if it has no need of rounding.

    Raises:
        ValueError: if ``dtype`` is neither.

    >>> rounded = stochastic_round(jnp.full(1000, 1.001), jnp.bfloat16, jax.random.key(0))
    >>> sorted(set(rounded.tolist()))
    [1.0, 1.0078125]

    References:
        S. Gupta et al., "Deep Learning with Limited Numerical Precision", ICML 2015,
        arXiv:1502.02551
    """
    dtype = jnp.dtype(dtype)
    if dtype == jnp.float32:
        return x
    if dtype != jnp.bfloat16:
        raise ValueError(f"dtype must be bfloat16 or float32, got {dtype.name}.")
    return _carry(x, jax.random.bits(key, x.shape, jnp.uint16))


def _carry(x: jax.Array, dither: jax.Array) -> jax.Array:
    """A bfloat16 is the upper half of a float32, into which a random lower half carries.

    The chance of that is the fraction that is cut off.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    upper = (bits + dither.astype(jnp.uint32)) & jnp.uint32(0xFFFF0000)
    rounded = jax.lax.bitcast_convert_type(upper.astype(jnp.uint32), jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)


@dataclasses.dataclass(frozen=True)
class Cast:
    """A codec without blocks or scales: a dtype."""

    name: ClassVar[str]
    bits: ClassVar[float]
    local: ClassVar[bool] = True

    def fit(self, shape: tuple[int, ...], shards: int = 1) -> Self:
        """Gives the codec itself."""
        del shape, shards
        return self

    def refit(self, encoded: Encoded, shape: tuple[int, ...] | None = None) -> Self:
        """Gives the codec itself."""
        del encoded, shape
        return self

    def encode(self, x: jax.Array, *, key: jax.Array | None = None) -> Encoded:
        """Casts ``x``; with a ``key`` it rounds stochastically."""
        check_array(x)
        x = x.astype(jnp.float32)
        return Encoded(
            x.astype(self.name) if key is None else stochastic_round(x, self.name, key), ()
        )

    def decode(self, encoded: Encoded, shape: tuple[int, ...] | None = None) -> jax.Array:
        """Gives back the array, as float32."""
        del shape
        return encoded.code.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Float32(Cast):
    """See :func:`float32`."""

    name: ClassVar[str] = "float32"
    bits: ClassVar[float] = 32


@dataclasses.dataclass(frozen=True)
class Bfloat16(Cast):
    """See :func:`bfloat16`."""

    name: ClassVar[str] = "bfloat16"
    bits: ClassVar[float] = 16


def float32() -> Float32:
    """No coding: an exception among rules that give every field a codec.

    Returns:
        The codec; 32 bits an entry. NaN and inf stay themselves.

    >>> float32().encode(jnp.ones(3)).code.dtype
    dtype('float32')
    """
    return Float32()


def bfloat16() -> Bfloat16:
    """The upper half of float32, rounded to nearest, or stochastically with a key.

    A moving average with a decay above 0.996 stands still in it when rounded to nearest.

    Returns:
        The codec; 16 bits an entry. NaN and inf stay themselves.

    >>> bfloat16().encode(jnp.array([1.001])).code.tolist()
    [1.0]
    """
    return Bfloat16()
