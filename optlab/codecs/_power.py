"""Power companding: the p-th root of an entry, in eight bits."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from optlab.codecs._blocks import EightBits
from optlab.codecs._nearest import nearest
from optlab.codecs._scales import scale_name

__all__ = ["Power8", "linear8", "power8"]

_POWERS = (1, 2, 4, 8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Power8(EightBits):
    """See :func:`power8`."""

    p: int = 2

    name: ClassVar[str] = "power8"

    def __post_init__(self):
        super().__post_init__()
        if self.p not in _POWERS:
            raise ValueError(f"p must be one of {_POWERS}, got {self.p!r}.")

    @property
    def _top(self) -> int:
        return 127 if self.signed else 255

    def _nearest(self, unit):
        if not self.signed:
            return self._nearest_ratio(jnp.clip(unit, 0.0, 1.0)).astype(jnp.uint8)
        code = self._nearest_value(jnp.minimum(jnp.abs(unit), 1.0))
        return jnp.where(unit < 0, -code, code).astype(jnp.int8)

    def _nearest_ratio(self, a):
        """The code whose value is nearest to ``a`` in [0, 1] in logarithm, as an integer."""
        square = a**2 if self.p == 1 else a
        for _ in range(_POWERS.index(self.p) - 1):
            square = jnp.sqrt(square)
        # The threshold between k and k + 1 is at the root sqrt(k (k + 1)), with c = k + 1/2 the
        # root of c^2 - 1/4: solved for c, which is then rounded.
        return nearest(jnp.sqrt(square * 255**2 + 0.25))

    def _nearest_value(self, a):
        """The code whose value is nearest to ``a`` in [0, 1], as an integer."""
        # The threshold between k and k + 1 is (k^p + (k+1)^p) / 2. With c = k + 1/2 it is c,
        # c^2 + 1/4 and (c^2 + 3/4)^2 - 1/2 for p = 1, 2, 4: solved for c, which is then rounded.
        if self.p == 1:
            return nearest(jnp.minimum(a * 127, 127.0))
        if self.p == 2:
            return nearest(jnp.sqrt(jnp.maximum(a * 127**2 - 0.25, 0.0)))
        if self.p == 4:
            square = jnp.sqrt(a * float(127**4) + 0.5) - 0.75
            return nearest(jnp.sqrt(jnp.maximum(square, 0.0)))
        below = jnp.floor(jnp.sqrt(jnp.sqrt(jnp.sqrt(a))) * 127)
        threshold = 0.5 * self._power(below) + 0.5 * self._power(below + 1)
        return jnp.minimum(below + (a > threshold), 127).astype(jnp.int32)

    def _next(self, code, up):
        lowest = -self._top if self.signed else 0
        step = jnp.where(up, 1, -1)
        return jnp.clip(code.astype(jnp.int32) + step, lowest, self._top).astype(code.dtype)

    def _from_code(self, code):
        unit = code.astype(jnp.float32)
        if self.signed and self.p > 1:
            unit, magnitude = unit * (1.0 / self._top), jnp.abs(unit) * (1.0 / self._top)
            return unit * jax.lax.integer_pow(magnitude, self.p - 1)
        return self._power(unit)

    def _power(self, code):
        unit = code * (1.0 / self._top)
        if self.p > 1:
            return jax.lax.integer_pow(unit, self.p)
        # XLA may multiply scale and constant first, but the top must give the scale exactly.
        return jnp.where(code == self._top, 1.0, jnp.where(code == -self._top, -1.0, unit))


def power8(
    block: int = 256,
    *,
    p: int | None = None,
    signed: bool = True,
    safe_zero: bool = True,
    scale_dtype: Any = "float32",
) -> Power8:
    r"""Eight bits for the p-th root: what optimizer states are best kept in.

    .. math::
        x \approx s \operatorname{sign}(c) \left(\frac{|c|}{T}\right)^p, \qquad
        s = \max_{\text{block}} |x|

    with codes c from -127 to 127 and T = 127, or from 0 to 255 and T = 255. Entries with signs are
    rounded to the nearest value: with the square root (p = 2) those above 3e-5 of the block's
    largest are told from zero. Unsigned ones are rounded to the nearest in ratio, by which steps
    that are divided by their root err least: the threshold between values of the codes c and c + 1
    is their geometric mean, and from 2e-10 of the block's largest on (p = 4) errors are relative.

    Args:
        block: how many entries of the last axis share a scale.
        p: 1, 2, 4 or 8; None takes 2 for signed arrays and 4 for unsigned ones.
        signed: whether entries have signs. If not, negative ones count as zero.
        safe_zero: unsigned entries above zero (above :math:`2^{-126}s`, exactly) never get the code
            0, so that a second moment cannot vanish beneath a first one.
        scale_dtype: of the scales: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"ue5m3"``.

    Returns:
        The codec; 8 + 32/block bits an entry. No entry of a block with a NaN or inf decodes to a
        finite one. Subnormal entries count as zero where the device flushes them; entries beyond
        :math:`2^{126}` are coded as the block's largest.

    Raises:
        ValueError: if ``block``, ``p`` or ``scale_dtype`` is not among the above.

    >>> codec = power8(block=4)
    >>> encoded = codec.encode(jnp.array([1.0, -0.25, 0.01, 0.0]))
    >>> encoded.code.tolist(), encoded.scale.tolist()
    ([127, -63, 13, 0], [1.0])
    >>> jnp.round(1e4 * codec.decode(encoded)).tolist()
    [10000.0, -2461.0, 105.0, 0.0]

    References:
        Companding by roots is folklore. Softsign and square root in groups of 32:
        Databricks, "FlashOptim", 2026, https://github.com/databricks/flashoptim

    Differs from FlashOptim: powers, larger blocks, the nearest value instead of the nearest root,
    and the safe zero.
    """
    return Power8(
        block=block,
        p=(2 if signed else 4) if p is None else p,
        signed=signed,
        safe_zero=safe_zero,
        scale_dtype=scale_name(scale_dtype),
    )


def linear8(
    block: int = 256, *, signed: bool = True, safe_zero: bool = True, scale_dtype: Any = "float32"
) -> Power8:
    """Eight bits with even steps: :func:`power8` with p = 1. For messages and first moments only.

    Second moments span more decades than its two: the small ones become far too large, and steps
    far too short.

    Args:
        block: see :func:`power8`.
        signed: see :func:`power8`.
        safe_zero: see :func:`power8`.
        scale_dtype: see :func:`power8`.

    Returns:
        The codec; 8 + 32/block bits an entry. NaN and inf as in :func:`power8`.

    >>> linear8().encode(jnp.array([1.0, -0.5, 0.0])).code.tolist()
    [127, -64, 0]
    """
    return power8(block, p=1, signed=signed, safe_zero=safe_zero, scale_dtype=scale_dtype)
