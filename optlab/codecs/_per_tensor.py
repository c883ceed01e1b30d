"""One scale for a whole array, as before there were blocks."""

import dataclasses
from typing import ClassVar, Self

import jax
import jax.numpy as jnp

from optlab.base import Encoded
from optlab.codecs._blocks import BlockCodec, check_array

__all__ = ["PerTensor", "per_tensor"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerTensor:
    """See :func:`per_tensor`."""

    of: str
    signed: bool = True

    name: ClassVar[str] = "per_tensor"
    local: ClassVar[bool] = False

    def __post_init__(self):
        if not isinstance(self._codec, BlockCodec):
            raise ValueError(f"of must be a codec that divides by one scale, got {self.of!r}.")

    @property
    def _codec(self) -> BlockCodec:
        from optlab.codecs._registry import get  # which has this codec too

        try:
            return get(self.of, signed=self.signed)
        except ValueError:  # it has no such option, or is unknown
            return get(self.of)

    @property
    def code_bits(self) -> int:
        """Bits of a code."""
        return self._codec.code_bits

    @property
    def bits(self) -> float:
        """Bits that one element takes at rest; the one scale is as good as none."""
        return self.code_bits

    def fit(self, shape: tuple[int, ...], shards: int = 1) -> Self:
        """Gives the codec itself."""
        del shape, shards
        return self

    def refit(self, encoded: Encoded, shape: tuple[int, ...] | None = None) -> Self:
        """Gives the codec itself."""
        del encoded, shape
        return self

    def encode(self, x: jax.Array, *, key: jax.Array | None = None) -> Encoded:
        """Codes ``x``; with a ``key`` it rounds stochastically."""
        check_array(x)
        return self._codec.encode_whole(x.astype(jnp.float32), key)

    def decode(self, encoded: Encoded, shape: tuple[int, ...] | None = None) -> jax.Array:
        """Gives back the array, as float32."""
        return self._codec.decode_whole(encoded, shape)


def per_tensor(of: str, *, signed: bool = True) -> PerTensor:
    """Codes with one scale for a whole array: what blocks are to be compared with.

    A single large entry then costs all others their precision.

    Args:
        of: text of a codec whose blocks have one scale each, such as ``"dynamic8"`` or
            ``"float8('e5m2')"``; its ``block`` is not used.
        signed: whether entries have signs.

    Returns:
        The codec; its ``scale`` has one entry and as many axes as the array. It is not ``local``:
        it cannot work on a chunk of rows, and on a sharded array the scale costs a collective. NaN
        and inf as in :func:`optlab.codecs.power8`, for the whole array.

    Raises:
        ValueError: if ``of`` is no such codec.

    >>> encoded = per_tensor("linear8").encode(jnp.array([[127.0, 2.2], [0.2, -1.0]]))
    >>> encoded.code.tolist(), encoded.scale.tolist()
    ([[127, 2], [0, -1]], [[127.0]])

    References:
        T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise
        Quantization", ICLR 2022, arXiv:2110.02861, whose table 3 compares the two; the scales of
        H. Peng et al., "FP8-LM: Training FP8 Large Language Models", 2023, arXiv:2310.18313
    """
    return PerTensor(of=of, signed=signed)
