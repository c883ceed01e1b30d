"""The dynamic tree map of 8-bit optimizers, and its 4-bit form."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from optlab.codecs._blocks import EightBits
from optlab.codecs._four import FourBits
from optlab.codecs._scales import scale_name
from optlab.codecs._tree import lookup, tree_book, tree_index, tree_thresholds, tree_value

__all__ = ["Dynamic4", "Dynamic8", "dynamic4", "dynamic8"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dynamic8(EightBits):
    """See :func:`dynamic8`."""

    exact: bool = False

    name: ClassVar[str] = "dynamic8"

    def _nearest(self, unit):
        if not self.signed:
            unit = jnp.clip(unit, 0.0, 1.0)
        if not self.exact:
            return self._candidate(unit)
        # A code that is right or one too low, which one comparison decides. Ties stay low, which
        # for negative entries is away from zero.
        slack = jnp.where(unit < 0, 1 + 1e-6, 1 - 1e-6)
        code = self._candidate(unit * slack)
        thresholds = tree_thresholds(7, self.signed)
        return code + (unit > lookup(thresholds, code)).astype(jnp.uint8)

    def _candidate(self, unit):
        if not self.signed:
            return tree_index(unit, 7, False).astype(jnp.uint8)
        index = tree_index(jnp.minimum(jnp.abs(unit), 1.0), 7, True)
        code = jnp.where(unit < 0, 127.0 - jnp.minimum(index, 127.0), 127.0 + index)
        return code.astype(jnp.uint8)

    def _next(self, code, up):
        step = jnp.where(up, 1, -1)
        return jnp.clip(code.astype(jnp.int32) + step, 0, 255).astype(jnp.uint8)

    def _from_code(self, code):
        if self.exact:
            return lookup(tree_book(7, self.signed), code)
        if not self.signed:
            return tree_value(code.astype(jnp.float32), 7, False)
        index = code.astype(jnp.float32) - 127.0
        value = tree_value(jnp.abs(index), 7, True)
        return jnp.where(index < 0, -value, value)


def dynamic8(
    block: int = 256,
    *,
    signed: bool = True,
    safe_zero: bool = True,
    exact: bool = False,
    scale_dtype: Any = "float32",
) -> Dynamic8:
    r"""The dynamic tree map of bitsandbytes and torchao: seven decades, finest at the top.

    Decade i of 0 to 6 holds :math:`n = 2^i` values, :math:`2^{i+1}` if unsigned,

    .. math::
        10^{i-6} \left(0.1 + 0.9 \frac{j + 1/2}{n}\right), \qquad j = 0, \dots, n - 1,

    and 0 and 1 are added. The nearest is found in closed form, without a search.

    Args:
        block: how many entries of the last axis share a scale; 256 in bitsandbytes.
        signed: the map with signs, from -0.993 to 1 times the scale, or without.
        safe_zero: see :func:`optlab.codecs.power8`; unset it for parity with bitsandbytes.
        exact: bit by bit the codes and values of bitsandbytes' reference, with ties to the lower
            code, by two lookups in tables of 256. Without it some entries within six units in the
            last place of a threshold get the neighbouring code, and values are right to 6e-7.
        scale_dtype: see :func:`optlab.codecs.power8`.

    Returns:
        The codec; 8 + 32/block bits an entry. NaN and inf as in :func:`optlab.codecs.power8`.

    Raises:
        ValueError: if ``block`` or ``scale_dtype`` is none.

    >>> codec = dynamic8(exact=True)
    >>> encoded = codec.encode(jnp.array([1.0, 0.0, -1e-6]))
    >>> encoded.code.tolist()
    [255, 127, 126]

    References:
        T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise
        Quantization", ICLR 2022, arXiv:2110.02861;
        https://github.com/bitsandbytes-foundation/bitsandbytes at 95f9af30

    Differs from the paper: blocks of 256, as in the released code since 0.44, not 2048; they lie on
    the last axis, not on the flattened array, which is the same where 256 divides that axis.
    Differs from bitsandbytes: the safe zero. Its CPU kernel looks up 65536 even steps and is far
    from nearest; its CUDA kernel moves a code whose sign is lost.
    """
    return Dynamic8(
        block=block,
        signed=signed,
        safe_zero=safe_zero,
        exact=exact,
        scale_dtype=scale_name(scale_dtype),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dynamic4(FourBits):
    """See :func:`dynamic4`."""

    name: ClassVar[str] = "dynamic4"

    def _nearest(self, unit):
        index = tree_index(jnp.minimum(jnp.abs(unit), 1.0), 3, True)
        code = jnp.where(unit < 0, 7.0 - jnp.minimum(index, 7.0), 7.0 + index)
        return code.astype(jnp.uint8)

    def _from_code(self, code):
        index = code.astype(jnp.float32) - 7.0
        value = tree_value(jnp.abs(index), 3, True)
        return jnp.where(index < 0, -value, value)


def dynamic4(block: int = 128, *, scale_dtype: Any = "float32") -> Dynamic4:
    """Four bits with signs, by a tree map of three decades: for first moments.

    The values are 0, 1 and, with either sign, 0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625 and
    0.8875 times the scale. Two codes share a byte, the even entry in its high half.

    Args:
        block: how many entries of the last axis share a scale.
        scale_dtype: see :func:`optlab.codecs.power8`.

    Returns:
        The codec; 4 + 32/block bits an entry. NaN and inf as in :func:`optlab.codecs.power8`.

    Raises:
        ValueError: if ``block`` or ``scale_dtype`` is none.

    >>> dynamic4().encode(jnp.array([1.0, 0.0, -1.0])).code.tolist()
    [247, 0]

    References:
        B. Li, J. Chen, J. Zhu, "Memory Efficient Optimizers with 4-bit States", NeurIPS 2023,
        arXiv:2309.01507; torchao's AdamW4bit

    Differs from the paper: the byte's halves are torchao's; the released code (lpmm) swaps them.
    """
    return Dynamic4(block=block, scale_dtype=scale_name(scale_dtype))
