"""Gradient clipping at a percentile of each tensor's own recent norms."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import wide_dtype
from optlab._checks import check_count, check_range
from optlab.linalg import safe_norm

__all__ = ["PercentileClipState", "percentile_clip"]


class PercentileClipState(NamedTuple):
    """State of :func:`percentile_clip`: 400 bytes per leaf by default."""

    count: jax.Array  # steps taken; shape=(), dtype=int32
    norms: optax.Updates  # a ring of norms a leaf; shape=(history,), dtype=float32 or wider


def percentile_clip(percentile: float = 5.0, *, history: int = 100) -> optax.GradientTransformation:
    r"""Clips the norm of each leaf at a percentile of its last norms, the present one included.

    .. math::
        u_t = g_t \min\Big(1, \frac{q_t}{\|g_t\|}\Big), \qquad
        q_t = \operatorname{sort}(\|g_{t-h+1}\|, \dots, \|g_t\|)
              \big[\lfloor p h / 100 \rfloor\big]

    The first norm fills the whole history. A leaf of any size costs h numbers of state. A low
    percentile clips most steps, and so also normalises; chain it before an optimizer.

    Args:
        percentile: p in [0, 100]; 100 never clips.
        history: h, the number of norms that are kept.

    Returns:
        A transformation; its updates have the gradients' shapes and dtypes. A leaf that is not
        finite passes unclipped and is not recorded.

    Raises:
        ValueError: if ``percentile`` or ``history`` is out of range.

    >>> tx = percentile_clip(5)
    >>> state = tx.init(jnp.zeros(1))
    >>> for gradient in (4.0, 512.0):
    ...     updates, state = tx.update(jnp.array([gradient]), state)
    >>> updates.tolist()
    [4.0]

    References:
        T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise
        Quantization", ICLR 2022, arXiv:2110.02861, whose released code has it;
        P. Seetharaman, G. Wichern, B. Pardo, J. Le Roux, "AutoClip: Adaptive Gradient Clipping for
        Source Separation Networks", 2020, arXiv:2007.14469, with one history of all leaves

    Differs from the released code: zeros before a leaf's first nonzero gradient are no history;
    there they would hold it at zero for most of the next h steps. Norms are kept, not squares.
    """
    check_range("percentile", percentile, 0.0, 100.0, closed="[]")
    check_count("history", history, 1)

    def init(params):
        def ring(p):
            return jnp.zeros(history, wide_dtype(p))

        return PercentileClipState(jnp.zeros((), jnp.int32), jax.tree.map(ring, params))

    def update(updates, state, params=None):
        del params
        rank = jnp.minimum(jnp.asarray(percentile * history / 100, jnp.int32), history - 1)

        def record(ring, norm):
            recorded = ring.at[state.count % history].set(norm)
            recorded = jnp.where(jnp.max(ring) > 0, recorded, norm)
            return jnp.where(jnp.isfinite(norm), recorded, ring)

        def clip(g, ring, norm):
            limit = jnp.sort(ring)[rank]
            # Also false for a norm of NaN.
            scale = jnp.where(norm > limit, limit / jnp.where(norm > limit, norm, 1.0), 1.0)
            return (scale * g.astype(norm.dtype)).astype(g.dtype)

        norms = jax.tree.map(lambda g, ring: safe_norm(g.astype(ring.dtype)), updates, state.norms)
        rings = jax.tree.map(record, state.norms, norms)
        new_updates = jax.tree.map(clip, updates, rings, norms)
        return new_updates, PercentileClipState(optax.safe_increment(state.count), rings)

    return optax.GradientTransformation(init, update)
