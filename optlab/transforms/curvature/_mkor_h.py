"""MKOR-H: MKOR until the loss stops gaining, and first order from then on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._checks import check_range
from optlab.transforms.curvature._mkor import momentum_and_decay, scale_by_mkor

__all__ = ["UntilFlatState", "mkor_h", "until_flat"]


class UntilFlatState(NamedTuple):
    """State of :func:`until_flat`: five scalars beside the inner state."""

    inner: optax.OptState  # of the inner transformation
    count: jax.Array  # shape=(), dtype=int32: steps in this window
    total: jax.Array  # shape=(), dtype=float32: sum of their losses
    previous: jax.Array  # shape=(), dtype=float32: mean loss of the last window, inf at first
    active: jax.Array  # shape=(), dtype=bool: whether the inner transformation is still applied


def until_flat(
    inner: optax.GradientTransformation, *, window: int = 100, tolerance: float = 0.05
) -> optax.GradientTransformationExtraArgs:
    r"""Applies a transformation until the loss flattens, then passes gradients on for good.

    With :math:`\ell_k` the mean loss of the k-th window of steps, the inner transformation is left
    at the end of the first window with

    .. math:: \ell_{k-1} - \ell_k < \tau |\ell_{k-1}|

    From then on it is not run, and its state stays as it is. The ``update`` takes ``value``, the
    loss at the params; all extra arguments go on to the inner transformation.

    Args:
        inner: what is applied at first.
        window: steps in a window, one or more.
        tolerance: :math:`\tau \ge 0`, the relative gain from window to window that is worth it.

    Returns:
        A transformation.

    Raises:
        ValueError: if an argument is out of range, or, at trace time, if ``value`` is missing.

    >>> tx = until_flat(optax.scale(10.0), window=1)
    >>> g, found = jnp.ones(()), []
    >>> state = tx.init(g)
    >>> for value in (4.0, 2.0, 1.99, 1.0):
    ...     updates, state = tx.update(g, state, value=value)
    ...     found.append(float(updates))
    >>> found
    [10.0, 10.0, 10.0, 1.0]

    References:
        M. Mozaffari, S. Li, Z. Zhang, M. Mehri Dehnavi, "MKOR: Momentum-Enabled
        Kronecker-Factor-Based Optimizer Using Rank-1 Updates", NeurIPS 2023, arXiv:2306.01685

    Differs from the paper: the test of the loss is ours; the paper says only that the switch goes
    by the rate at which the loss falls, and the released code has none.
    """
    check_range("window", window, 1, float("inf"))
    check_range("tolerance", tolerance, 0.0, float("inf"))
    inner = optax.with_extra_args_support(inner)

    def init(params):
        return UntilFlatState(
            inner=inner.init(params),
            count=jnp.zeros((), jnp.int32),
            total=jnp.zeros((), jnp.float32),
            previous=jnp.full((), jnp.inf, jnp.float32),
            active=jnp.ones((), bool),
        )

    def update(updates, state, params=None, *, value=None, **extra):
        if value is None:
            raise ValueError("value must be given to the update: the loss at the params.")

        def apply(updates, inner_state):
            return inner.update(updates, inner_state, params, value=value, **extra)

        updates, inner_state = jax.lax.cond(
            state.active, apply, lambda *unchanged: unchanged, updates, state.inner
        )
        count = state.count + 1
        total = state.total + jnp.asarray(value, jnp.float32)
        full = count >= window
        mean = total / count
        # In the first window the previous mean is infinite, and so is what is asked of the gain.
        gains = jnp.isinf(state.previous) | (
            state.previous - mean >= tolerance * jnp.abs(state.previous)
        )
        return updates, UntilFlatState(
            inner=inner_state,
            count=jnp.where(full, 0, count),
            total=jnp.where(full, 0, total),
            previous=jnp.where(full, mean, state.previous),
            active=state.active & (gains | ~full),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def mkor_h(
    learning_rate: optax.ScalarOrSchedule,
    *,
    window: int = 100,
    tolerance: float = 0.05,
    b1: float = 0.9,
    factor_decay: float = 0.95,
    update_interval: int = 10,
    warmup_steps: int = 0,
    stabilizer: float = 0.1,
    max_factor: float = 2.0,
    clip: float = 100.0,
    first_order: str | None = None,
    factor_dtype: Any | None = None,
    weight_decay: float = 0.0,
    mask: Any | None = None,
    mu_dtype: Any | None = None,
    as_released: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """MKOR that goes over to plain momentum when the loss stops gaining: see :func:`until_flat`.

    Curvature helps most early on; later its cost is saved. An m x n kernel with a bias costs
    (m + 1)^2 + n^2 + (m + 1) n numbers of state, as in :func:`mkor`.

    Args:
        learning_rate: see :func:`mkor`.
        window: see :func:`until_flat`.
        tolerance: see :func:`until_flat`.
        b1: see :func:`mkor`.
        factor_decay: see :func:`scale_by_mkor`.
        update_interval: see :func:`scale_by_mkor`.
        warmup_steps: see :func:`scale_by_mkor`.
        stabilizer: see :func:`scale_by_mkor`.
        max_factor: see :func:`scale_by_mkor`.
        clip: see :func:`scale_by_mkor`.
        first_order: see :func:`scale_by_mkor`.
        factor_dtype: see :func:`scale_by_mkor`.
        weight_decay: see :func:`mkor`.
        mask: see :func:`mkor`.
        mu_dtype: see :func:`mkor`.
        as_released: see :func:`scale_by_mkor`.

    Returns:
        A transformation; its ``update`` needs ``params``, ``statistics`` and ``value``.

    Raises:
        ValueError: if an argument is out of range.

    >>> from optlab.transforms.curvature import layer_taps
    >>> params = {"dense": {"kernel": jnp.ones((2, 3))}}
    >>> tx, taps = mkor_h(0.1), layer_taps(params)
    >>> updates, state = tx.update(params, tx.init(params), params, statistics=taps, value=1.0)
    >>> bool(state[0].active)
    True

    References:
        M. Mozaffari, S. Li, Z. Zhang, M. Mehri Dehnavi, "MKOR: Momentum-Enabled
        Kronecker-Factor-Based Optimizer Using Rank-1 Updates", NeurIPS 2023, arXiv:2306.01685

    Differs from the paper: see :func:`scale_by_mkor` and :func:`until_flat`.
    """
    precondition = scale_by_mkor(
        factor_decay=factor_decay,
        update_interval=update_interval,
        warmup_steps=warmup_steps,
        stabilizer=stabilizer,
        max_factor=max_factor,
        clip=clip,
        first_order=first_order,
        factor_dtype=factor_dtype,
        as_released=as_released,
    )
    return optax.chain(
        until_flat(precondition, window=window, tolerance=tolerance),
        momentum_and_decay(learning_rate, b1, weight_decay, mask, mu_dtype),
    )
