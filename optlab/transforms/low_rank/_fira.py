"""Fira: GaLore, and beside it the part of the gradient that the projection leaves out."""

from typing import Any

import optax

from optlab.transforms.low_rank._adamw import adam, adam_correction, apply_decay_and_rate
from optlab.transforms.low_rank._limit_norm_growth import limit_norm_growth
from optlab.transforms.low_rank._low_rank import low_rank
from optlab.transforms.low_rank._projectors import Projector

__all__ = ["fira"]


def fira(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    *,
    update_interval: int = 200,
    scale: float = 0.25,
    max_growth: float = 1.01,
    projector: Projector | str = "svd",
    side: str = "short",
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    mask: Any | None = None,
    mu_dtype: Any | None = None,
    exact_residual: bool = True,
    as_released: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam in a subspace, and outside it the gradient itself, scaled as Adam scales inside.

    .. math::
        R_t = G_t Q, \quad N_t = \operatorname{Adam}(R_t), \quad
        S_t = \frac{\|N_t\|}{\|R_t\|} (G_t - R_t Q^\top), \quad
        x_t = x_{t-1} - \eta \big(\alpha N_t Q^\top + \ell(S_t) + \lambda x_{t-1}\big)

    with the ratio taken row by row (of a wide matrix column by column), and the limiter
    :math:`\ell` of :func:`limit_norm_growth`. Leaves that are not projected, see :func:`low_rank`,
    get plain AdamW.

    An m x n leaf, m <= n, costs (m + 2 n) r + 1 numbers of state.

    Args:
        learning_rate: step size, or a schedule of the step count.
        rank: r, the dimension of the subspace.
        update_interval: steps between refreshes of the subspace.
        scale: :math:`\alpha`, of the update inside the subspace.
        max_growth: by what factor the norm of S may grow in a step.
        projector: what picks the subspace.
        side: see :func:`low_rank`.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: decoupled, multiplied by the learning rate.
        mask: pytree of bools, or a function of params giving one: where to decay.
        mu_dtype: dtype in which the first moment is stored; None means float32, or the leaf's if
            that is wider.
        exact_residual: False subtracts :math:`\alpha R Q^\top` instead of :math:`R Q^\top`, as the
            released code does, so that S holds a part of the gradient inside the subspace too.
        as_released: Adam and its decay as in the released code: eps is added before the bias
            correction, which comes after the limiter, and the decay comes after the step.

    Returns:
        A transformation; its ``update`` needs ``params``.

    Raises:
        ValueError: if an argument is out of range.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.eye(4), "b": jnp.ones(4)}
    >>> tx = fira(0.1, rank=1)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> bool((jnp.diag(updates["w"]) <= 0).all())
    True

    References:
        X. Chen et al., "Fira: Can We Achieve Full-rank Training of LLMs Under Low-rank
        Constraint?", NeurIPS 2025, arXiv:2410.01623

    Differs from the paper: nothing that it states; signs of singular vectors as in :func:`galore`,
    and a norm of zero limits nothing. The released code is had, but for its 1e-8 beside both
    norms, with ``exact_residual=False`` and ``as_released=True``.
    """
    direction = adam(b1, b2, eps, mu_dtype, as_released=as_released)
    residual = limit_norm_growth(max_growth)
    if as_released:
        residual = optax.chain(
            optax.scale_by_schedule(lambda t: 1 / adam_correction(b1, b2, t + 1)),
            residual,
            optax.scale_by_schedule(lambda t: adam_correction(b1, b2, t + 1)),
        )
    return optax.chain(
        low_rank(
            direction,
            projector,
            rank,
            update_interval=update_interval,
            side=side,
            scale=scale,
            residual=residual,
            exact_residual=exact_residual,
            fallback=direction,
        ),
        apply_decay_and_rate(learning_rate, weight_decay, mask, after=as_released),
    )
