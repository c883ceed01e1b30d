"""Microscaling: four-bit floats (e2m1) in small blocks with eight-bit scales."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from optlab.base import Encoded
from optlab.codecs._blocks import check_array, join, largest, split
from optlab.codecs._four import FourBits
from optlab.codecs._scales import SCALES, scale_name

__all__ = ["Microscaling", "microscaling", "mxfp4", "nvfp4"]

_TOP = 6.0  # the values of e2m1 are 0, 0.5, 1, 1.5, 2, 3, 4 and 6, with either sign


@dataclasses.dataclass(frozen=True, kw_only=True)
class Microscaling(FourBits):
    """See :func:`microscaling`."""

    scale_dtype: str = "e8m0"
    array_scale: bool = False
    rotation: int | None = None

    name: ClassVar[str] = "microscaling"

    def __post_init__(self):
        super().__post_init__()
        if self.rotation is not None and self.block & (self.block - 1):
            raise ValueError(f"block must be a power of two to be rotated, got {self.block}.")

    @property
    def local(self) -> bool:
        """Whether a block's code depends on that block alone."""
        return not self.array_scale

    def fit(self, shape, shards=1):
        """Gives the codec whose blocks suit arrays of ``shape``: powers of two if rotated."""
        wish = self.block
        if self.rotation is not None:
            share = shape[-1] // shards
            wish = max(min(wish, share & -share), 1)  # the largest power of two that divides it
        return super(Microscaling, dataclasses.replace(self, block=wish)).fit(shape, shards)

    def encode(self, x, *, key=None):
        """Codes ``x``; with a ``key`` it rounds stochastically."""
        check_array(x)
        blocks = split(x.astype(jnp.float32), self.block)
        if self.rotation is not None:
            if blocks.size != x.size or blocks.shape[-1] & (blocks.shape[-1] - 1):
                raise ValueError(
                    f"x must have a last axis that block = {self.block} divides to be rotated, "
                    f"got shape {x.shape}; fit the codec to it."
                )
            rotated = _times(blocks, _rotation(blocks.shape[-1], self.rotation))
            blocks = rotated * (1 + 1e-6)  # else rounding could halve the scale of a decoded 4
        # A power of two is rounded down, so that the largest entry is from 4 to 8, and clipped.
        wanted = largest(jnp.abs(blocks)) * (0.25 if self.scale_dtype == "e8m0" else 1 / _TOP)
        if not self.array_scale:
            scale = self._scale.from_float32(wanted)
            inverse = self._scale.inverse(scale)
        else:
            whole = jnp.max(wanted, keepdims=True, initial=0.0) * (1 / 448)
            inverse = SCALES["float32"].inverse(whole)
            scale = (self._scale.from_float32(wanted * inverse), whole)
            inverse = inverse * self._scale.inverse(scale[0])
        code = self._to_code(blocks * inverse[..., None], key)
        return Encoded(self._store(join(code, x.shape)), scale)

    def decode(self, encoded, shape=None):
        """Gives back the array, as float32."""
        if self.array_scale:
            scale = self._scale.to_float32(encoded.scale[0]) * encoded.scale[1]
        else:
            scale = self._scale.to_float32(encoded.scale)
        code = self._load(encoded.code, shape)
        value = self._from_code(split(code, self.refit(encoded, code.shape).block))
        blocks = value * scale[..., None]
        if self.rotation is not None:
            blocks = _times(blocks, _rotation(blocks.shape[-1], self.rotation).T)
        return join(blocks, code.shape)

    def _nearest(self, unit):
        a = jnp.abs(unit)
        # Steps of 1/2 up to 2, of 1 up to 4, of 2 up to 6; ties to the even code.
        step = jnp.where(a < 2, jnp.round(2 * a), jnp.where(a < 4, jnp.round(a) + 2, 4))
        code = jnp.where(a < 4, step, jnp.minimum(jnp.round(a / 2) + 4, 7))
        return jnp.where((unit < 0) & (code > 0), code + 8, code).astype(jnp.uint8)

    def _next(self, code, up):
        index = jnp.where(code < 8, code, 8 - code.astype(jnp.int32))
        index = jnp.clip(index + jnp.where(up, 1, -1), -7, 7)
        return jnp.where(index < 0, 8 - index, index).astype(jnp.uint8)

    def _from_code(self, code):
        m = (code & 7).astype(jnp.float32)
        value = jnp.where(m < 4, m / 2, jnp.where(m < 6, m - 2, 2 * m - 8))
        return jnp.where(code >= 8, -value, value)


def _times(blocks: jax.Array, matrix: np.ndarray) -> jax.Array:
    return jnp.matmul(blocks, matrix, precision=jax.lax.Precision.HIGHEST)


@functools.cache
def _rotation(size: int, seed: int) -> np.ndarray:
    """A Hadamard matrix whose rows have random signs, orthogonal; a function of its arguments."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    signs = np.random.Generator(np.random.PCG64(seed)).choice([-1.0, 1.0], (size, 1))
    return (signs * matrix / np.sqrt(size)).astype(np.float32)


def microscaling(
    block: int = 32,
    *,
    scale_dtype: Any = "e8m0",
    array_scale: bool = False,
    rotation: int | None = None,
) -> Microscaling:
    r"""Four-bit floats (e2m1) in small blocks, whose scales take eight bits: with signs.

    Args:
        block: how many entries of the last axis share a scale.
        scale_dtype: ``"e8m0"``, powers of two; ``"e4m3"``, from 2e-3 to 448; ``"ue5m3"``, from 8e-6
            to 114688; or one of :func:`optlab.codecs.power8`.
        array_scale: divide the scales by one float32 number an array, such that the largest is 448.
            Optimizer states are far below what e4m3 and ue5m3 reach without it.
        rotation: seed of a random-sign Hadamard matrix, by which each block is multiplied before it
            is coded, so that an outlier is spread over it; None for none. With one of ten standard
            deviations in a block of ``mxfp4`` it halves the error; without any it does nothing.

    Returns:
        The codec; 4 + 8/block bits an entry. With ``array_scale`` it is not ``local``: it cannot
        work on chunks, and sharded arrays cost a collective. No entry of a block with a NaN or inf
        decodes to a finite one.

    Raises:
        ValueError: if ``scale_dtype`` is none, or ``block`` no power of two under ``rotation``.

    >>> codec = microscaling()
    >>> codec.decode(codec.encode(jnp.array([4.0, -3.4, 0.2, 0.0]))).tolist()
    [4.0, -3.0, 0.0, 0.0]

    References:
        B. D. Rouhani et al., "Microscaling Data Formats for Deep Learning", 2023, arXiv:2310.10537;
        S. Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", NeurIPS 2024,
        arXiv:2404.00456 (rotation)

    Differs from the paper: where ``block`` does not divide the axis, blocks are shorter.
    """
    return Microscaling(
        block=block,
        scale_dtype=scale_name(scale_dtype),
        array_scale=array_scale,
        rotation=rotation,
    )


def mxfp4(*, rotation: int | None = None) -> Microscaling:
    """The Open Compute format: :func:`microscaling` with blocks of 32 and powers of two.

    Args:
        rotation: see :func:`microscaling`.

    Returns:
        The codec; 4.25 bits an entry.

    >>> mxfp4().bits
    4.25
    """
    return microscaling(32, scale_dtype="e8m0", rotation=rotation)


def nvfp4(*, scale_dtype: Any = "e4m3", rotation: int | None = None) -> Microscaling:
    """Nvidia's format: :func:`microscaling` with blocks of 16 and an array scale.

    Args:
        scale_dtype: ``"e4m3"``, or ``"ue5m3"``, whose wider range may make an array scale needless.
        rotation: see :func:`microscaling`.

    Returns:
        The codec; 4.5 bits an entry. It is not ``local``.

    >>> nvfp4().bits
    4.5
    """
    return microscaling(16, scale_dtype=scale_dtype, array_scale=True, rotation=rotation)
