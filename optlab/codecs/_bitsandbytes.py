"""States as bitsandbytes keeps them: flat blocks of 256."""

import jax
import jax.numpy as jnp

from optlab.base import Encoded
from optlab.codecs._dynamic import Dynamic8, dynamic8

__all__ = ["from_bitsandbytes", "to_bitsandbytes"]

_BLOCK = 256


def _codec(signed: bool) -> Dynamic8:
    return dynamic8(_BLOCK, signed=signed, safe_zero=False, exact=True)


def _rows(x: jax.Array) -> jax.Array:
    """The flattened array, zero-padded to whole blocks, a row each."""
    return jnp.pad(x.ravel(), (0, -x.size % _BLOCK)).reshape(-1, _BLOCK)


def from_bitsandbytes(code: jax.Array, absmax: jax.Array, *, signed: bool = True) -> jax.Array:
    """Decodes a state of bitsandbytes' block-wise 8-bit optimizers, as its checkpoints hold it.

    Args:
        code: ``state1`` or ``state2``, uint8, with the parameter's shape.
        absmax: ``absmax1`` or ``absmax2``, float32, one for each 256 entries of the flattened code.
        signed: whether ``qmap`` has signs: so for ``state1``, not for ``state2``.

    Returns:
        The state, float32, bit by bit what bitsandbytes' reference decodes. To keep it in eight
        bits, encode it anew; where 256 divides the last axis, :func:`optlab.codecs.dynamic8` finds
        the same codes.

    Raises:
        ValueError: if ``absmax`` has another length.

    >>> state = from_bitsandbytes(jnp.array([[255, 127]], jnp.uint8), jnp.array([2.0]))
    >>> state.tolist()
    [[2.0, 0.0]]

    References:
        T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise
        Quantization", ICLR 2022, arXiv:2110.02861
    """
    rows = _rows(code)
    if absmax.shape != rows.shape[:1]:
        raise ValueError(
            f"absmax must have shape {rows.shape[:1]} for a code of shape {code.shape}, "
            f"got {absmax.shape}."
        )
    values = _codec(signed).decode(Encoded(rows, absmax[:, None]))
    return values.ravel()[: code.size].reshape(code.shape)


def to_bitsandbytes(x: jax.Array, *, signed: bool = True) -> tuple[jax.Array, jax.Array]:
    """Codes a state for a checkpoint that bitsandbytes can load; undoes :func:`from_bitsandbytes`.

    Args:
        x: the state, of the parameter's shape.
        signed: whether ``qmap`` has signs: so for ``state1``, not for ``state2``.

    Returns:
        ``(code, absmax)``: uint8 of the shape of ``x``, and float32, one for each 256 entries.

    >>> code, absmax = to_bitsandbytes(jnp.array([[2.0, 0.0]]))
    >>> code.tolist(), absmax.tolist()
    ([[255, 127]], [2.0])
    """
    code, scale = _codec(signed).encode(_rows(x))
    return code.ravel()[: x.size].reshape(x.shape), scale[:, 0]
