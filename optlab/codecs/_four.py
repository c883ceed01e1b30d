"""Codes of four bits, two a byte; even steps without zero, for second moments."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from optlab.base import Encoded
from optlab.codecs._blocks import BlockCodec, check_array, join, largest, split
from optlab.codecs._scales import scale_name

__all__ = ["FourBits", "Linear4NoZero", "RankOneLinear4", "linear4_nozero", "rank1_linear4"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FourBits(BlockCodec):
    """A codec of half a byte an entry; the even entry lies in the high half of the byte.

    On several shards each must hold an even number of entries.
    """

    code_bits: ClassVar[int] = 4
    multiple: ClassVar[int] = 2

    def refit(self, encoded, shape=None):
        """Gives the codec that cuts as ``encoded`` was cut; ``shape`` is that of its array."""
        *outer, stored = encoded.code.shape
        return super().refit(encoded, (*outer, 2 * stored) if shape is None else shape)

    def _store(self, code):
        odd = code.shape[-1] % 2
        if odd:
            code = jnp.pad(code, [(0, 0)] * (code.ndim - 1) + [(0, 1)])
        # As one word of two bytes, the even entry low: taking the bytes apart by index would make
        # XLA:CPU compute the codes twice, entry by entry.
        pair = jax.lax.bitcast_convert_type(split(code, 2), jnp.uint16)
        return ((pair << 4) | (pair >> 8)).astype(jnp.uint8)

    def _load(self, stored, shape):
        shape = (*stored.shape[:-1], 2 * stored.shape[-1]) if shape is None else shape
        return join(jnp.stack([stored >> 4, stored & 15], axis=-1), shape)

    def _next(self, code, up):
        step = jnp.where(up, 1, -1)
        return jnp.clip(code.astype(jnp.int32) + step, 0, 15).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear4NoZero(FourBits):
    """See :func:`linear4_nozero`."""

    name: ClassVar[str] = "linear4_nozero"

    def _largest(self, blocks):
        return largest(jnp.maximum(blocks, 0.0))

    def _nearest(self, unit):
        return jnp.clip(jnp.ceil(unit * 16 - 1.5), 0, 15).astype(jnp.uint8)

    def _from_code(self, code):
        return (code.astype(jnp.float32) + 1) * (1 / 16)


def linear4_nozero(block: int = 128, *, scale_dtype: Any = "float32") -> Linear4NoZero:
    """Four bits without signs and without zero, in even steps: for second moments.

    The values are 1/16, 2/16, ..., 1 times the scale, so that only an all-zero block decodes to
    zeros. Two codes share a byte, the even entry in its high half.

    Args:
        block: how many entries of the last axis share a scale.
        scale_dtype: see :func:`optlab.codecs.power8`.

    Returns:
        The codec; 4 + 32/block bits an entry. NaN and inf as in :func:`optlab.codecs.power8`;
        negative entries count as zero.

    Raises:
        ValueError: if ``block`` or ``scale_dtype`` is none.

    >>> codec = linear4_nozero()
    >>> codec.decode(codec.encode(jnp.array([16.0, 0.0, 8.4, 1.0]))).tolist()
    [16.0, 1.0, 8.0, 1.0]

    References:
        B. Li, J. Chen, J. Zhu, "Memory Efficient Optimizers with 4-bit States", NeurIPS 2023,
        arXiv:2309.01507; torchao's AdamW4bit

    Differs from the paper: one scale a block, as in torchao; :func:`rank1_linear4` is the paper's.
    """
    return Linear4NoZero(block=block, scale_dtype=scale_name(scale_dtype))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankOneLinear4(Linear4NoZero):
    """See :func:`rank1_linear4`."""

    name: ClassVar[str] = "rank1_linear4"

    @property
    def local(self) -> bool:
        """Whether a block's code depends on that block alone: its row and column count too."""
        return False

    @property
    def bits(self) -> float:
        """Bits that one element takes; the scales of a matrix are as good as none."""
        return self.code_bits

    def refit(self, encoded, shape=None):
        """Gives the codec that cuts as ``encoded`` was cut; only vectors have blocks."""
        return self if encoded.code.ndim > 1 else super().refit(encoded, shape)

    def encode(self, x, *, key=None):
        """Codes ``x``; with a ``key`` it rounds stochastically."""
        check_array(x)
        if x.ndim == 1:
            return super().encode(x, key=key)
        x = x.astype(jnp.float32)
        seen = jnp.where(x < jnp.inf, jnp.maximum(x, 0.0), jnp.inf)
        others = [[j for j in range(x.ndim) if j != i] for i in range(x.ndim)]
        maxima = [jnp.max(seen, axis=axes, keepdims=True, initial=0.0) for axes in others]
        scales = tuple(map(self._scale.from_float32, maxima))
        code = self._to_code(x * self._scale.inverse(self._bound(scales)), key)
        return Encoded(self._store(code), scales)

    def decode(self, encoded, shape=None):
        """Gives back the array, as float32."""
        if encoded.code.ndim == 1:
            return super().decode(encoded, shape)
        return self._from_code(self._load(encoded.code, shape)) * self._bound(encoded.scale)

    def _bound(self, scales):
        """What each entry is at most: the least of its axes' maxima, as float32."""
        return functools.reduce(jnp.minimum, map(self._scale.to_float32, scales))


def rank1_linear4(block: int = 128, *, scale_dtype: Any = "float32") -> RankOneLinear4:
    r"""As :func:`linear4_nozero`, with one scale for each row and each column.

    .. math::
        s_{ij} = \min\Big(\max_k |x_{ik}|, \max_k |x_{kj}|\Big)

    and so for each axis of a tensor; vectors are cut into blocks.

    Args:
        block: how many entries of a vector share a scale.
        scale_dtype: see :func:`optlab.codecs.power8`.

    Returns:
        The codec; 4 bits an entry. It is not ``local``: its scales are maxima over whole axes, so
        that it cannot work on a chunk of rows, and a sharded axis costs a collective.

    Raises:
        ValueError: if ``block`` or ``scale_dtype`` is none.

    >>> rank1_linear4().encode(jnp.ones((4, 6))).scale[1].shape
    (1, 6)

    References:
        B. Li, J. Chen, J. Zhu, "Memory Efficient Optimizers with 4-bit States", NeurIPS 2023,
        arXiv:2309.01507, section 4.2

    Differs from the paper: nothing. Differs from the released code: its fused kernel uses blocks.
    """
    return RankOneLinear4(block=block, scale_dtype=scale_name(scale_dtype))
