"""Power companding that follows the range of each block."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from optlab.base import Encoded
from optlab.codecs._blocks import Blockwise, check_array, join, largest, split
from optlab.codecs._nearest import nearest
from optlab.codecs._scales import SCALES

__all__ = ["AdaptivePower8", "adaptive_power8"]

_LOWEST = 0.5 / 127**2  # below it, p = 2 gives zero


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptivePower8(Blockwise):
    """See :func:`adaptive_power8`."""

    signed: bool = True

    name: ClassVar[str] = "adaptive_power8"

    @property
    def bits(self) -> float:
        """Bits that one element takes at rest, its share of the scales included."""
        return 8 + (32 if self.signed else 64) / self.block

    def encode(self, x, *, key=None):
        """Codes ``x``; the ``key`` is not used."""
        del key
        check_array(x)
        blocks = split(x.astype(jnp.float32), self.block)
        code, scale = (_encode_signed if self.signed else _encode_unsigned)(blocks)
        return Encoded(join(code, x.shape), scale)

    def decode(self, encoded, shape=None):
        """Gives back the array, as float32."""
        del shape
        code = split(encoded.code, self.refit(encoded).block)
        value = (_decode_signed if self.signed else _decode_unsigned)(code, encoded.scale)
        return join(value, encoded.code.shape)


def _encode_signed(x):
    scale = largest(jnp.abs(x))
    unit = x * SCALES["float32"].inverse(scale)[..., None]
    a = jnp.minimum(jnp.abs(unit), 1.0)
    steep = jnp.max(jnp.where(a <= _LOWEST, a, 0.0), axis=-1) > 0
    square = jnp.sqrt(a * float(127**4) + 0.5) - 0.75  # see power8, for p = 4 and p = 2
    square = jnp.where(steep[..., None], square, a * 127**2 - 0.25)
    code = nearest(jnp.sqrt(jnp.maximum(square, 0.0)))
    # Nothing vanishes, so that a decoded block is found as steep as it was.
    code = jnp.maximum(code, (a > 0).astype(jnp.int32))
    code = jnp.where(unit < 0, -code, code).astype(jnp.int8)
    return code, jnp.where(steep, -scale, scale)


def _decode_signed(code, scale):
    unit = code.astype(jnp.float32) * (1 / 127)
    square = unit * jnp.abs(unit)
    steep = (scale < 0)[..., None]
    return jnp.where(steep, square * jnp.abs(square), square) * jnp.abs(scale)[..., None]


def _encode_unsigned(x):
    x = jnp.maximum(x, 0.0)
    high = largest(x)
    low = jnp.where(high < jnp.inf, jnp.min(x, axis=-1), jnp.inf)
    bottom, step = _root_scale(high, low)
    inverse = jnp.where(step > 0, 1.0 / step, 0.0)
    root = jnp.sqrt(jnp.sqrt(x))
    code = nearest(jnp.minimum((root - bottom[..., None]) * inverse[..., None], 255.0))
    # The code 0 is the smallest entry: where that is zero, for zeros alone.
    code = jnp.maximum(code, ((x > 0) & (low == 0)[..., None]).astype(jnp.int32))
    return code.astype(jnp.uint8), (high, low)


def _decode_unsigned(code, scale):
    high, low = scale
    bottom, step = _root_scale(high, low)
    place = code.astype(jnp.float32)
    square = (bottom[..., None] + place * step[..., None]) ** 2
    inner = jnp.where(code == 255, high[..., None], square * square)
    return jnp.where(code == 0, low[..., None], inner)


def _root_scale(high, low):
    """The fourth root of the smallest entry, and the step from code to code above it."""
    bottom = jnp.sqrt(jnp.sqrt(low))
    return bottom, (jnp.sqrt(jnp.sqrt(high)) - bottom) * (1 / 255)


def adaptive_power8(block: int = 256, *, signed: bool = True) -> AdaptivePower8:
    r"""As :func:`optlab.codecs.power8`, fitted to the range of each block.

    With signs, p is 2, or 4 in the blocks from which p = 2 would lose an entry that is not zero.
    Without, the 256 codes lie between the block's smallest and largest entries,

    .. math::
        x \approx \left(l^{1/4} + (h^{1/4} - l^{1/4}) \frac{c}{255}\right)^4, \qquad
        l = \min_{\text{block}} x, \quad h = \max_{\text{block}} x,

    so that the fewer decades a block spans, the smaller the error. No entry becomes zero but zero.

    Args:
        block: how many entries of the last axis share a scale.
        signed: whether entries have signs. If not, negative ones count as zero.

    Returns:
        The codec. With signs, ``scale`` is an array, negative where p is 4, and an entry takes
        8 + 32/block bits; without, it is a pair, largest and smallest entries, and an entry takes
        8 + 64/block bits. NaN, inf and subnormal entries as in :func:`optlab.codecs.power8`.

    Raises:
        ValueError: if ``block`` is not a positive integer.

    >>> codec = adaptive_power8(signed=False)
    >>> codec.encode(jnp.array([16.0, 1.0, 5.0625, 1.0])).code.tolist()
    [255, 0, 127, 0]

    References:
        Our own; the range of a group is also what H. Xi et al., "COAT: Compressing Optimizer States
        and Activation for Memory-Efficient FP8 Training", ICLR 2025, arXiv:2410.19313, adapts to.
    """
    return AdaptivePower8(block=block, signed=signed)
