"""Eight-bit floats under a scale a block."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from optlab.codecs._blocks import EightBits
from optlab.codecs._scales import scale_name

__all__ = ["FORMATS", "Float8", "float8"]

# Name: (dtype, largest finite value, its byte).
FORMATS = {
    "e4m3": (jnp.float8_e4m3fn, 448.0, 0x7E),
    "e5m2": (jnp.float8_e5m2, 57344.0, 0x7B),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Float8(EightBits):
    """See :func:`float8`."""

    format: str = "e4m3"

    name: ClassVar[str] = "float8"

    def __post_init__(self):
        super().__post_init__()
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}; got {self.format!r}.")

    def _nearest(self, unit):
        dtype, top, _ = FORMATS[self.format]
        value = jnp.clip(unit, -1.0 if self.signed else 0.0, 1.0) * top
        return jax.lax.bitcast_convert_type(value.astype(dtype), jnp.uint8)

    def _next(self, code, up):
        top = FORMATS[self.format][2]
        index = jnp.where(code < 128, code, 128 - code.astype(jnp.int32))
        index = jnp.clip(index + jnp.where(up, 1, -1), -top, top)
        return jnp.where(index < 0, 128 - index, index).astype(jnp.uint8)

    def _from_code(self, code):
        dtype, top, _ = FORMATS[self.format]
        value = jax.lax.bitcast_convert_type(code, dtype).astype(jnp.float32)
        # XLA may multiply scale and constant first, but the top must give the scale exactly.
        return jnp.where(jnp.abs(value) == top, jnp.sign(value), value * (1 / top))


def float8(
    format: str = "e4m3",
    block: int = 256,
    *,
    signed: bool = True,
    safe_zero: bool = True,
    scale_dtype: Any = "float32",
) -> Float8:
    """Eight-bit floats, the block's largest entry at their largest: as torchao's AdamWFp8.

    Args:
        format: ``"e4m3"``, finer (4 significant bits, 2e5 from smallest to largest), or ``"e5m2"``,
            wider (3 significant bits, 4e9).
        block: how many entries of the last axis share a scale; 256 in torchao.
        signed: whether entries have signs. If not, negative ones count as zero.
        safe_zero: see :func:`optlab.codecs.power8`; unset it for parity with torchao.
        scale_dtype: see :func:`optlab.codecs.power8`.

    Returns:
        The codec; 8 + 32/block bits an entry, the floats' bytes as uint8. Finite entries never
        become NaN or inf; blocks with NaN or inf as in :func:`optlab.codecs.power8`.

    Raises:
        ValueError: if ``format``, ``block`` or ``scale_dtype`` is none.

    >>> codec = float8()
    >>> codec.decode(codec.encode(jnp.array([448.0, -3.3, 0.0]))).tolist()
    [448.0, -3.25, 0.0]

    References:
        P. Micikevicius et al., "FP8 Formats for Deep Learning", 2022, arXiv:2209.05433; torchao

    Differs from torchao: the scale stored is the largest entry, not its 448th part, without a floor
    of 1e-12 (which takes the resolution of second moments of gradients below 1e-6).
    """
    return Float8(
        format=format,
        block=block,
        signed=signed,
        safe_zero=safe_zero,
        scale_dtype=scale_name(scale_dtype),
    )
