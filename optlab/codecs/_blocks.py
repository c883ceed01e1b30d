"""What block-wise codecs share: blocks on the last axis, each divided by its largest entry."""

import dataclasses
import math
from typing import ClassVar, Self

import jax
import jax.numpy as jnp

from optlab._checks import check_count
from optlab.base import Encoded
from optlab.codecs._scales import SCALES, Scale

__all__ = [
    "BlockCodec",
    "Blockwise",
    "EightBits",
    "check_array",
    "choose_block",
    "join",
    "largest",
    "split",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blockwise:
    """A codec whose blocks lie on the last axis.

    An axis of length n is cut into ``ceil(n / block)`` blocks as equal as can be: each of them has
    ``ceil(n / blocks)`` entries, the last one the rest. So the number of scales alone tells how an
    array was cut.
    """

    block: int

    name: ClassVar[str]
    code_bits: ClassVar[int] = 8
    multiple: ClassVar[int] = 1  # of entries that a shard must hold

    def __post_init__(self):
        check_count("block", self.block, 1)

    @property
    def local(self) -> bool:
        """Whether a block's code depends on that block alone."""
        return True

    def fit(self, shape: tuple[int, ...], shards: int = 1) -> Self:
        """Gives the codec whose blocks suit arrays of ``shape``: see :func:`choose_block`."""
        return dataclasses.replace(
            self, block=choose_block(shape, self.block, shards, multiple=self.multiple)
        )

    def refit(self, encoded: Encoded, shape: tuple[int, ...] | None = None) -> Self:
        """Gives the codec that cuts as ``encoded`` was cut; ``shape`` is that of its array."""
        n = (encoded.code.shape if shape is None else shape)[-1]
        blocks = jax.tree.leaves(encoded.scale)[0].shape[-1]
        return dataclasses.replace(self, block=math.ceil(n / blocks)) if blocks else self


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockCodec(Blockwise):
    """A codec that divides each block by its scale and codes the quotients one by one.

    A subclass sets ``name`` and ``code_bits`` and maps quotients in [-1, 1] to codes and back.
    """

    scale_dtype: str = "float32"

    def __post_init__(self):
        super().__post_init__()
        if self.scale_dtype not in SCALES:
            raise ValueError(
                f"scale_dtype must be one of {', '.join(SCALES)}; got {self.scale_dtype!r}."
            )

    @property
    def bits(self) -> float:
        """Bits that one element takes at rest, its share of the scale included."""
        return self.code_bits + self._scale.bits / self.block

    def encode(self, x: jax.Array, *, key: jax.Array | None = None) -> Encoded:
        """Codes ``x``; with a ``key`` it rounds stochastically."""
        check_array(x)
        blocks = split(x.astype(jnp.float32), self.block)
        scale = self._scale.from_float32(self._largest(blocks))
        code = self._to_code(blocks * self._scale.inverse(scale)[..., None], key)
        return Encoded(self._store(join(code, x.shape)), scale)

    def decode(self, encoded: Encoded, shape: tuple[int, ...] | None = None) -> jax.Array:
        """Gives back the array, as float32."""
        code = self._load(encoded.code, shape)
        scale = self._scale.to_float32(encoded.scale)
        value = self._from_code(split(code, self.refit(encoded, code.shape).block))
        return join(value * scale[..., None], code.shape)

    def encode_whole(self, x: jax.Array, key: jax.Array | None) -> Encoded:
        """Codes ``x``, float32, with one scale for all its entries."""
        top = jnp.max(self._largest(x)) if x.size else jnp.float32(0.0)
        scale = self._scale.from_float32(top).reshape((1,) * x.ndim)
        return Encoded(self._store(self._to_code(x * self._scale.inverse(scale), key)), scale)

    def decode_whole(self, encoded: Encoded, shape: tuple[int, ...] | None) -> jax.Array:
        """Undoes :meth:`encode_whole`."""
        value = self._from_code(self._load(encoded.code, shape))
        return value * self._scale.to_float32(encoded.scale)

    @property
    def _scale(self) -> Scale:
        return SCALES[self.scale_dtype]

    def _largest(self, blocks: jax.Array) -> jax.Array:
        return largest(jnp.abs(blocks))

    def _to_code(self, unit: jax.Array, key: jax.Array | None) -> jax.Array:
        """The nearest code or, with a key, one of the two around ``unit``: right in the mean."""
        near = self._nearest(unit)
        if key is None:
            return near
        value = self._from_code(near)
        other = self._next(near, unit > value)
        distance = self._from_code(other) - value
        chance = (unit - value) / jnp.where(distance == 0, 1.0, distance)
        return jnp.where(jax.random.uniform(key, unit.shape, jnp.float32) < chance, other, near)

    def _nearest(self, unit: jax.Array) -> jax.Array:
        """The code of the value nearest to each quotient."""
        raise NotImplementedError

    def _next(self, code: jax.Array, up: jax.Array) -> jax.Array:
        """The code of the next value above or below, or the same at the end."""
        raise NotImplementedError

    def _from_code(self, code: jax.Array) -> jax.Array:
        """The value of each code, as float32."""
        raise NotImplementedError

    def _store(self, code: jax.Array) -> jax.Array:
        return code

    def _load(self, stored: jax.Array, shape: tuple[int, ...] | None) -> jax.Array:
        del shape
        return stored


@dataclasses.dataclass(frozen=True, kw_only=True)
class EightBits(BlockCodec):
    """A codec of a byte an entry, whose codes of non-negative values are in the values' order.

    Where entries have no signs and ``safe_zero`` is set, none above zero gets the code 0: beneath a
    first moment that is not zero, a second one that is makes Adam's step explode.
    """

    signed: bool = True
    safe_zero: bool = True

    def _largest(self, blocks):
        return largest(jnp.abs(blocks) if self.signed else jnp.maximum(blocks, 0.0))

    def _to_code(self, unit, key):
        code = super()._to_code(unit, key)
        if self.signed or not self.safe_zero:
            return code
        return jnp.maximum(code, (unit > 0).astype(code.dtype))


def check_array(x: jax.Array) -> None:
    """Raises unless ``x`` can be coded: a float array of at least one axis."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x must be an array of floats to be coded, got dtype {x.dtype}.")
    if x.ndim == 0:
        raise ValueError("x must have at least one axis to be coded, got a scalar.")


def choose_block(shape: tuple[int, ...], wish: int, shards: int = 1, *, multiple: int = 1) -> int:
    """Chooses the block for arrays of ``shape`` whose last axis lies on ``shards`` devices.

    It is the largest divisor of a device's share of the axis that is at most ``wish``, if that is
    at least an eighth of it. If not, an axis on one device gets blocks of nearly the wish and a
    shorter last one; on several devices, where no block may straddle two, the smallest divisor
    above the wish is taken.
    """
    share, rest = divmod(shape[-1], shards)
    if rest or (shards > 1 and share % multiple):
        raise ValueError(
            f"shape must have a last axis that is a multiple of {shards * multiple} to be coded "
            f"on {shards} shards, got {shape}."
        )
    if share <= wish:
        return max(share, 1)
    below = max(d for d in range(1, wish + 1) if share % d == 0)
    if 8 * below >= wish:
        return below
    if shards == 1:
        return _even(share, wish)
    small = [d for d in range(1, math.isqrt(share) + 1) if share % d == 0]
    return min(d for d in (*small, *(share // d for d in small)) if d > wish)


def _even(n: int, block: int) -> int:
    """The least block with which n entries make no more blocks than with ``block``."""
    return math.ceil(n / math.ceil(n / block)) if n else block


def largest(magnitude: jax.Array) -> jax.Array:
    """The largest entry of each block; inf where an entry is inf or NaN.

    XLA:CPU's own maximum over the last of three axes lets a NaN go unseen (jax 0.10.2).
    """
    return jnp.max(jnp.where(magnitude < jnp.inf, magnitude, jnp.inf), axis=-1)


def split(x: jax.Array, block: int) -> jax.Array:
    """Cuts the last axis into blocks: shape ``[..., blocks, block]``.

    A shorter last one is filled up with copies of its last entry, which change no extremes.
    """
    *outer, n = x.shape
    block = _even(n, block)
    blocks = math.ceil(n / block)
    if blocks * block != n:
        x = jnp.pad(x, [(0, 0)] * len(outer) + [(0, blocks * block - n)], mode="edge")
    return _reshape(x, (*outer, blocks, block))


def join(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Undoes :func:`split`: gives the array of ``shape``, without the padding."""
    *outer, blocks, block = x.shape
    whole = _reshape(x, (*outer, blocks * block))
    return whole[..., : shape[-1]] if blocks * block != shape[-1] else whole


def _reshape(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Splits the last axis of x in two, or joins its last two; the first of the two is sharded.

    On explicit mesh axes jax does not guess that. No block straddles two shards: no data move.
    """
    spec = jax.typeof(x).sharding.spec
    if all(axis is None for axis in spec):
        return jnp.reshape(x, shape)
    kept = spec[:-1] if len(shape) < x.ndim else (*spec, None)
    return jax.lax.reshape(x, shape, out_sharding=jax.P(*kept))
