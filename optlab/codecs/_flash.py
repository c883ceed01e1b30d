"""FlashOptim's codec: softsign and square root, in small groups with float16 scales."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from optlab.codecs._blocks import EightBits, check_array
from optlab.codecs._nearest import nearest

__all__ = ["Flash8", "flash8"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flash8(EightBits):
    """See :func:`flash8`."""

    name: ClassVar[str] = "flash8"

    def encode(self, x, *, key=None):
        """Codes ``x``; with a ``key`` it rounds stochastically, unsigned entries' roots."""
        check_array(x)
        x = x.astype(jnp.float32)
        return super().encode(x if self.signed else jnp.sqrt(jnp.maximum(x, 0.0)), key=key)

    def decode(self, encoded, shape=None):
        """Gives back the array, as float32."""
        x = super().decode(encoded, shape)
        return x if self.signed else x * x

    def _nearest(self, unit):
        if not self.signed:
            return nearest(jnp.clip(unit * 255, 0.0, 255.0)).astype(jnp.uint8)
        softsign = 2 * unit / (1 + jnp.abs(unit))
        return nearest(jnp.clip(softsign * 127, -127.0, 127.0)).astype(jnp.int8)

    def _next(self, code, up):
        lowest, highest = (-127, 127) if self.signed else (0, 255)
        step = jnp.where(up, 1, -1)
        return jnp.clip(code.astype(jnp.int32) + step, lowest, highest).astype(code.dtype)

    def _from_code(self, code):
        code = code.astype(jnp.float32)
        if not self.signed:
            # XLA may multiply scale and constant first, but the top must give the scale exactly.
            return jnp.where(code == 255, 1.0, code * (1 / 255))
        return code / (254 - jnp.abs(code))


def flash8(
    block: int = 32, *, signed: bool = True, safe_zero: bool = True, scale_dtype: str = "float16"
) -> Flash8:
    r"""Eight bits by softsign, or by the square root of unsigned entries, in small groups.

    .. math::
        c = \operatorname{round}\left(127 \frac{2x/s}{1 + |x/s|}\right), \qquad
        c = \operatorname{round}\left(255 \sqrt{x} / s\right)

    with s the largest entry, or root, of the group.

    Args:
        block: how many entries of the last axis make a group.
        signed: whether entries have signs. If not, negative ones count as zero.
        safe_zero: see :func:`optlab.codecs.power8`.
        scale_dtype: see :func:`optlab.codecs.power8`.

    Returns:
        The codec; 8 + 16/block bits an entry. NaN and inf as in :func:`optlab.codecs.power8`.
        Signed entries beyond 65504 are clipped, and below 6e-8 a group has a scale of 6e-8.

    Raises:
        ValueError: if ``block`` or ``scale_dtype`` is none.

    >>> flash8().encode(jnp.array([1.0, -0.5, 0.0])).code.tolist()
    [127, -85, 0]

    References:
        Databricks, "FlashOptim", 2026, https://github.com/databricks/flashoptim at 8b2d966

    Differs from the released code: scales are rounded down and never to zero, and the safe zero.
    """
    return Flash8(block=block, signed=signed, safe_zero=safe_zero, scale_dtype=scale_dtype)
