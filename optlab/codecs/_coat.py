"""COAT's dynamic range expansion: each group is raised to the power that fills fp8's range."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from optlab._checks import check_count
from optlab.base import Encoded
from optlab.codecs._blocks import Blockwise, check_array, join, largest, split

__all__ = ["Coat8", "coat8"]

_TOP = 448.0  # of e4m3
_RANGE = math.log2(_TOP**2 / 2)  # what the authors take for its range
_FLOOR = 1e-30  # added to largest and smallest entries in the released code
_STEEPEST = 64.0  # exponent for groups of one magnitude, infinite in the released code


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coat8(Blockwise):
    """See :func:`coat8`."""

    expand_min: int = 16
    signed: bool = True
    zero_safe: bool = True

    name: ClassVar[str] = "coat8"

    def __post_init__(self):
        super().__post_init__()
        check_count("expand_min", self.expand_min, 1)

    @property
    def bits(self) -> float:
        """Bits that one element takes at rest, its share of three scales included."""
        return 8 + 3 * 32 / self.block

    def encode(self, x, *, key=None):
        """Codes ``x``; the ``key`` is not used."""
        del key
        check_array(x)
        blocks = split(x.astype(jnp.float32), self.block)
        magnitude = jnp.abs(blocks) if self.signed else jnp.maximum(blocks, 0.0)
        high = largest(magnitude)
        low = jnp.min(magnitude, axis=-1)
        if self.zero_safe:
            positive = jnp.where(magnitude > 0, magnitude, high[..., None])
            low = jnp.maximum(jnp.min(positive, axis=-1), high * 2.0**-24)
        high, low = high + _FLOOR, low + _FLOOR
        middle = jnp.sqrt(high) * jnp.sqrt(low)
        ratio = jnp.log2(high / low)
        steps = jnp.floor(self.expand_min * _RANGE / jnp.where(ratio > 0, ratio, 1e-9))
        k = jnp.minimum(steps / self.expand_min, _STEEPEST)
        scale = _power(high / middle, k) / _TOP
        expanded = _power(magnitude / middle[..., None], k[..., None]) / scale[..., None]
        value = jnp.clip(jnp.copysign(expanded, blocks), -_TOP, _TOP).astype(jnp.float8_e4m3fn)
        code = jax.lax.bitcast_convert_type(value, jnp.uint8)
        if self.zero_safe and not self.signed:
            code = jnp.maximum(code, (magnitude > 0).astype(jnp.uint8))
        return Encoded(join(code, x.shape), (scale, k, middle))

    def decode(self, encoded, shape=None):
        """Gives back the array, as float32."""
        del shape
        scale, k, middle = (part[..., None] for part in encoded.scale)
        code = split(encoded.code, self.refit(encoded).block)
        value = jax.lax.bitcast_convert_type(code, jnp.float8_e4m3fn).astype(jnp.float32)
        magnitude = _power(jnp.abs(value) * scale, 1 / k) * middle
        return join(jnp.copysign(magnitude, value), encoded.code.shape)


def _power(x: jax.Array, k: jax.Array) -> jax.Array:
    """x to the k, both positive; zero stays zero."""
    return jnp.exp2(k * jnp.log2(x))


def coat8(
    block: int = 128, *, signed: bool = True, expand_min: int = 16, zero_safe: bool = True
) -> Coat8:
    r"""Eight-bit floats (e4m3) of powers: each group is expanded to fill the format's range.

    .. math::
        y = \operatorname{sign}(x) \left(\frac{|x|}{s}\right)^k, \qquad
        s = \sqrt{\max |x| \min |x|}, \qquad
        k = \frac1e \left\lfloor e \, \frac{\log_2 (448^2 / 2)}{\log_2 (\max |x| / \min |x|)}
        \right\rfloor

    Args:
        block: how many entries of the last axis make a group.
        signed: whether entries have signs. If not, negative ones count as zero.
        expand_min: e, by whose inverse the exponents differ.
        zero_safe: take the smallest entry that is not zero, and at least 2^-24 of the largest; and
            never give an unsigned entry above zero the code 0. Unset, as in the released code, one
            exact zero in a group sets k to 1/8, and the error of all its entries to 17 %.

    Returns:
        The codec; 8 + 96/block bits an entry: ``scale`` holds three arrays, the scale of y, k and
        s. No entry of a group with a NaN or inf is told right. A second pass may choose another k.

    Raises:
        ValueError: if ``block`` or ``expand_min`` is not a positive integer.

    >>> codec = coat8()
    >>> encoded = codec.encode(jnp.array([1.0, -0.1, 0.0]))
    >>> bool(jnp.allclose(codec.decode(encoded), jnp.array([1.0, -0.1, 0.0]), rtol=0.04))
    True

    References:
        H. Xi et al., "COAT: Compressing Optimizer States and Activation for Memory-Efficient FP8
        Training", ICLR 2025, arXiv:2410.19313; https://github.com/NVlabs/COAT at 80ec99f

    Differs from the paper: e4m3 for both moments, as its released kernel always does. Differs from
    the released code: ``zero_safe``, and k is at most 64 where that is infinite.
    """
    return Coat8(block=block, expand_min=expand_min, signed=signed, zero_safe=zero_safe)
