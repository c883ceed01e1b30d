"""DCT-AdamW: Adam on the gradient's largest cosine coefficients."""

from typing import Any

import optax

from optlab.transforms.low_rank._adamw import adam, apply_decay_and_rate
from optlab.transforms.low_rank._low_rank import low_rank
from optlab.transforms.low_rank._projectors import Projector

__all__ = ["dct_adamw"]


def dct_adamw(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    *,
    update_interval: int = 1,
    update_offset: int = 1,
    projector: Projector | str = "dct-III",
    side: str = "short",
    error_feedback: bool = True,
    rotate_moments: bool = True,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    mask: Any | None = None,
    mu_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamW in the span of those vectors of a fixed cosine basis that carry most of the gradient.

    .. math::
        A_t = G_t + E_{t-1}, \quad R_t = A_t Q_t, \quad E_t = A_t - R_t Q_t^\top, \quad
        x_t = x_{t-1} - \eta \big(\operatorname{Adam}(R_t) Q_t^\top + \lambda x_{t-1}\big)

    where the columns of Q are the r cosine vectors of largest coefficients in :math:`A_t`, along
    the short side, and the moments follow from :math:`Q_{t-1}` to :math:`Q_t`: those of a vector
    that stays are kept, those of a new one start at zero. There is no decomposition, and of the
    basis only r integers are kept. Leaves that are not projected, see :func:`low_rank`, get plain
    AdamW.

    An m x n leaf, m <= n, costs 2 n r + r + m n numbers of state, the last m n for the feedback.

    Args:
        learning_rate: step size, or a schedule of the step count.
        rank: r, the number of cosine vectors.
        update_interval: steps between two choices of the vectors.
        update_offset: see :func:`low_rank`; with 1 steps count from one, as in the paper.
        projector: what picks the subspace; ``"dct-II"`` is the basis that is cheapest by a fast
            transform, and :func:`optlab.transforms.low_rank.dct` has more choices.
        side: see :func:`low_rank`.
        error_feedback: whether to keep what the projection leaves out, and add it to the next
            gradient.
        rotate_moments: whether the moments follow a change of basis. Without it a moment stays in
            its place although the place then belongs to another vector.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: decoupled, multiplied by the learning rate.
        mask: pytree of bools, or a function of params giving one: where to decay.
        mu_dtype: dtype in which the first moment is stored; None means float32, or the leaf's if
            that is wider.

    Returns:
        A transformation; its ``update`` needs ``params``.

    Raises:
        ValueError: if an argument is out of range.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((4, 6)), "b": jnp.ones(4)}
    >>> state = dct_adamw(0.1, rank=2).init(params)[0]
    >>> state.inner.mu["w"].shape, state.error["w"].shape
    ((2, 6), (4, 6))

    References:
        I.-V. Modoranu et al., "FFT-based Dynamic Subspace Selection for Low-Rank Adaptive
        Optimization of Large Language Models", 2025, arXiv:2505.17967

    Differs from the paper: the error is kept in full precision. Differs from the released code,
    whose defaults are neither feedback nor rotation, and which never updates leaves of four axes:
    vectors are kept in the order of their index, which without rotation changes the path, and
    large leaves are no exception (for that see optax.partition).
    """
    direction = adam(b1, b2, eps, mu_dtype, as_released=False)
    return optax.chain(
        low_rank(
            direction,
            projector,
            rank,
            update_interval=update_interval,
            update_offset=update_offset,
            side=side,
            rotate_moments=rotate_moments,
            error_feedback=error_feedback,
            fallback=direction,
        ),
        apply_decay_and_rate(learning_rate, weight_decay, mask),
    )
