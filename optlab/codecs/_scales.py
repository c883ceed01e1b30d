"""How the scale of a block is stored."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optlab.codecs._nearest import nearest

__all__ = ["SCALES", "Scale", "scale_name"]

# The reciprocals of float32 numbers from 2**-126 to 2**126 are normal; subnormal ones are flushed
# to zero on some devices.
_TINY, _HUGE = 2.0**-126, 2.0**126


@dataclasses.dataclass(frozen=True)
class Scale:
    """A number format for scales, which are not negative.

    Nothing above zero is stored as zero, and nothing finite as inf. What a format without infinity
    or NaN stores instead is said at it.

    Attributes:
        bits: that one scale takes.
        from_float32: rounds and stores.
        to_float32: reads.
    """

    bits: int
    from_float32: Callable[[jax.Array], jax.Array]
    to_float32: Callable[[jax.Array], jax.Array]

    def inverse(self, scale: jax.Array) -> jax.Array:
        """What to multiply by so as to divide by a stored scale."""
        return 1.0 / jnp.clip(self.to_float32(scale), _TINY, _HUGE)


def _bits(x: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def _floats(bits: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _half(dtype: Any) -> Scale:
    """bfloat16 or float16, rounded down.

    The largest entry of a block is then clipped to the scale, of which it is at most one unit in
    the last place above; so a decoded block has the same scale again.
    """
    info = jnp.finfo(dtype)
    low, high = float(info.smallest_subnormal), float(info.max)

    def from_float32(scale):
        near = jnp.where(scale > 0, jnp.clip(scale, low, high), scale).astype(dtype)
        below = jax.lax.bitcast_convert_type(
            jax.lax.bitcast_convert_type(near, jnp.uint16) - jnp.uint16(1), dtype
        )
        over = (near.astype(jnp.float32) > scale) & (near > low)
        return jnp.where(jnp.isfinite(scale), jnp.where(over, below, near), scale.astype(dtype))

    return Scale(16, from_float32, lambda scale: scale.astype(jnp.float32))


def _e4m3_store(scale):
    # The format has no inf: its NaN stands for both.
    clipped = jnp.where(scale > 0, jnp.clip(scale, 2.0**-9, 448.0), scale)
    code = jax.lax.bitcast_convert_type(clipped.astype(jnp.float8_e4m3fn), jnp.uint8)
    return jnp.where(jnp.isfinite(scale), code, 0x7F).astype(jnp.uint8)


def _e4m3_load(code):
    return jax.lax.bitcast_convert_type(code, jnp.float8_e4m3fn).astype(jnp.float32)


def _ue5m3_store(scale):
    """No sign, five bits of exponent (bias 15), three of mantissa: 2**-17 to 114688; 255 is NaN."""
    bits = _bits(jnp.clip(scale, 2.0**-14, 114688.0))
    # Ties to even: half of the last kept place, less one, plus that place; a carry is right.
    rounded = (bits + jnp.uint32(0x7FFFF) + ((bits >> 20) & 1)) >> 20
    normal = rounded - jnp.uint32((127 - 15) << 3)
    subnormal = jnp.where(scale > 0, jnp.clip(nearest(scale * 2.0**17), 1, 8), 0)
    code = jnp.where(scale < 2.0**-14, subnormal.astype(jnp.uint32), normal)
    return jnp.where(jnp.isfinite(scale), code, 255).astype(jnp.uint8)


def _ue5m3_load(code):
    wide = code.astype(jnp.uint32)
    normal = _floats((wide << 20) + jnp.uint32((127 - 15) << 23))
    value = jnp.where(code < 8, code.astype(jnp.float32) * 2.0**-17, normal)
    return jnp.where(code == 255, jnp.nan, value)


def _e8m0_store(scale):
    """A power of two, rounded down: its biased exponent. 0 is 2**-127 and also zero; 255 is NaN."""
    return (_bits(scale) >> 23).astype(jnp.uint8)


def _e8m0_load(code):
    value = _floats(code.astype(jnp.uint32) << 23)  # 0.0 for the code 0
    return jnp.where(code == 255, jnp.nan, value)


SCALES = {
    "float32": Scale(32, lambda scale: scale, lambda scale: scale),
    "bfloat16": _half(jnp.bfloat16),
    "float16": _half(jnp.float16),
    "ue5m3": Scale(8, _ue5m3_store, _ue5m3_load),
    "e4m3": Scale(8, _e4m3_store, _e4m3_load),
    "e8m0": Scale(8, _e8m0_store, _e8m0_load),
}


def scale_name(dtype: Any) -> str:
    """The name under which a dtype of scales, or a name of one, is known."""
    return dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
