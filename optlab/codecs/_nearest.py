"""Rounding to whole numbers, in operations that kernels have too."""

import jax
import jax.numpy as jnp

__all__ = ["nearest"]


def nearest(x: jax.Array) -> jax.Array:
    """The integers nearest to ``x``, ties to the even ones, as int32.

    It is ``jnp.round``, which Pallas has no word for in Triton, for entries up to 2^22. NaN gives a
    multiple of 256: the code 0.

    Where ``x`` is a product, let a minimum or the like stand between: XLA may fuse a product with
    the sum here, and then rounds once where there were two roundings.
    """
    # From 2^23 to 2^24 the float32 numbers are the integers. Subtracting in floats would not do:
    # XLA takes away what it sees added and subtracted.
    shifted = x + jnp.float32(1.5 * 2**23)
    return jax.lax.bitcast_convert_type(shifted, jnp.int32) - 0x4B400000
