"""Stable-SPAM: Adam on gradients whose spikes and norm follow their own history."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import bias_correction, cast_like, wide, wide_dtype
from optlab._checks import check_range
from optlab.linalg import safe_norm
from optlab.transforms.adaptive._common import average

__all__ = ["ScaleByStableSpamState", "scale_by_stable_spam", "stable_spam"]


class ScaleByStableSpamState(NamedTuple):
    """State of :func:`scale_by_stable_spam`: 8 bytes per float32 parameter, 12 per leaf."""

    count: jax.Array  # steps taken; shape=(), dtype=int32
    mu: optax.Updates  # like params, dtype=mu_dtype or the leaf's
    nu: optax.Updates  # like params
    largest: optax.Updates  # average of max |g|; shape=() a leaf, dtype=float32 or wider
    norm: optax.Updates  # average of the gradient's norm; shape=() a leaf, dtype=float32 or wider
    norm_sq: optax.Updates  # average of its square; shape=() a leaf, dtype=float32 or wider


def _divide(x, y):
    """Gives x / y, and 0 where y = 0."""
    return jnp.where(y == 0, 0, x / jnp.where(y == 0, 1, y))


def scale_by_stable_spam(
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    gamma1: float = 0.7,
    gamma2: float = 0.9,
    gamma3: float = 0.999,
    reset_interval: int | None = 1000,
    total_steps: int | None = None,
    final_scale: float = 0.5,
    as_released: bool = False,
    mu_dtype: Any | None = None,
) -> optax.GradientTransformation:
    r"""Rescales gradients by Adam after adaptive spike clipping and adaptive norm, with resets.

    For each leaf, with hats for bias-corrected averages of decay :math:`\gamma_3`,
    :math:`\sigma\gamma_1` and :math:`\gamma_2`:

    .. math::
        \tilde g &= g \cdot \hat\mu_t / \max|g| \text{ where } |g| > \hat\mu_t, \qquad
            \mu_t \text{ averages } \max|g| \\
        g' &= \frac{\tilde g}{\|\tilde g\|} \frac{\hat a_t}{\sqrt{\hat b_t} + \epsilon}, \qquad
            a_t, b_t \text{ average } \|\tilde g\|, \|\tilde g\|^2

    Adam with :math:`\sigma\beta_1` follows on :math:`g'`; its moments are zeroed, and its bias
    corrections start again, where :math:`t \bmod \Delta T = 0`. An m x n leaf costs 2 m n + 3
    numbers of state.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: in both denominators, positive.
        gamma1: decay of the average norm, in [0, 1).
        gamma2: decay of the average squared norm, in [0, 1).
        gamma3: decay of the average largest entry, in [0, 1). The authors take
            0.85, 0.99999, 0.999 for training in bfloat16.
        reset_interval: :math:`\Delta T`, in steps; None never resets.
        total_steps: length T of a cosine that takes :math:`\sigma`, which multiplies ``b1`` and
            ``gamma1``, from 1 to ``final_scale``; None keeps it at 1.
        final_scale: see ``total_steps``; in [0, 1].
        as_released: keep the released code's resets, see below.
        mu_dtype: dtype in which the first moment is stored; None keeps the leaf's.

    Returns:
        A transformation; its updates have the gradients' shapes and dtypes. NaN and inf propagate.

    Raises:
        ValueError: if a hyperparameter is out of range.

    >>> tx = scale_by_stable_spam()
    >>> updates, _ = tx.update(jnp.array([3.0, -4.0]), tx.init(jnp.zeros(2)))
    >>> updates.round(3).tolist()
    [1.0, -1.0]

    References:
        T. Huang, H. Hu, Z. Zhang, G. Jin, X. Li, L. Shen, T. Chen, L. Liu, Q. Wen, Z. Wang, S. Liu,
        "Stable-SPAM: How to Train in 4-Bit More Stably than 16-Bit Adam", 2025, arXiv:2502.17055

    Differs from the paper: nothing that is known. The released code differs at resets, and
    ``as_released`` brings that back: the step of a reset still uses the old moments, with the bias
    corrections of a first step, and is too long; the new moments miss that step's gradient; and the
    three averages of a leaf, which are not reset, are then corrected as if they were, which lifts
    the spike limit some 300-fold just after a reset.
    """
    decays = {"b1": b1, "b2": b2, "gamma1": gamma1, "gamma2": gamma2, "gamma3": gamma3}
    for name, value in decays.items():
        check_range(name, value, 0.0, 1.0)
    check_range("eps", eps, 0.0, float("inf"), closed="()")
    check_range("reset_interval", reset_interval, 1, float("inf"))
    check_range("total_steps", total_steps, 1, float("inf"))
    check_range("final_scale", final_scale, 0.0, 1.0, closed="[]")

    def init(params):
        def scalars():
            # One buffer each, so that the state can be donated.
            return jax.tree.map(lambda p: jnp.zeros((), wide_dtype(p)), params)

        return ScaleByStableSpamState(
            count=jnp.zeros((), jnp.int32),
            mu=optax.tree.zeros_like(params, dtype=mu_dtype),
            nu=optax.tree.zeros_like(params),
            largest=scalars(),
            norm=scalars(),
            norm_sq=scalars(),
        )

    def momentum_scale(count):
        if total_steps is None:
            return 1.0
        angle = jnp.minimum(jnp.pi * count / (total_steps + 1), jnp.pi)
        return final_scale + (1.0 - final_scale) * 0.5 * (1.0 + jnp.cos(angle))

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        scale = momentum_scale(count)
        if reset_interval is None:
            fresh, age, history = False, count, count
        else:
            fresh = count % reset_interval == 0
            # The step of a reset is the first of its period.
            age = count % reset_interval + (count >= reset_interval)
            stale = (count - 1) % reset_interval + 1 + (count > reset_interval)
            history = stale if as_released else count

        gradients = wide(updates)
        peak = jax.tree.map(lambda g: jnp.max(jnp.abs(g), initial=0.0), gradients)
        largest = average(state.largest, peak, gamma3)
        correction = bias_correction(gamma3, history)

        def limit_spikes(g, peak, largest):
            limit = largest / correction
            return jnp.where(jnp.abs(g) > limit, _divide(g, peak) * limit, g)

        gradients = jax.tree.map(limit_spikes, gradients, peak, largest)
        norms = jax.tree.map(safe_norm, gradients)
        norm = average(state.norm, norms, gamma1 * scale)
        norm_sq = average(state.norm_sq, norms, gamma2, power=2)
        correction1 = bias_correction(gamma1 * scale, history)
        correction2 = bias_correction(gamma2, history)

        def normalize(g, n, a, b):
            return _divide(g, n) * (a / correction1 / (jnp.sqrt(b / correction2) + eps))

        gradients = jax.tree.map(normalize, gradients, norms, norm, norm_sq)

        def forget(moments):
            return jax.tree.map(lambda x: jnp.where(fresh, 0, x), moments)

        old = (state.mu, state.nu) if as_released else forget((state.mu, state.nu))
        mu = average(old[0], gradients, b1 * scale)
        nu = average(old[1], gradients, b2, power=2)
        correction1, correction2 = bias_correction(b1 * scale, age), bias_correction(b2, age)
        new_updates = jax.tree.map(
            lambda g, m, v: (m / correction1 / (jnp.sqrt(v / correction2) + eps)).astype(g.dtype),
            updates,
            mu,
            nu,
        )
        if as_released:
            mu, nu = forget((mu, nu))
        return new_updates, ScaleByStableSpamState(
            count=count,
            mu=cast_like(mu, state.mu),
            nu=cast_like(nu, state.nu),
            largest=cast_like(largest, state.largest),
            norm=cast_like(norm, state.norm),
            norm_sq=cast_like(norm_sq, state.norm_sq),
        )

    return optax.GradientTransformation(init, update)


def stable_spam(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    gamma1: float = 0.7,
    gamma2: float = 0.9,
    gamma3: float = 0.999,
    reset_interval: int | None = 1000,
    total_steps: int | None = None,
    final_scale: float = 0.5,
    as_released: bool = False,
    weight_decay: float = 0.0,
    mask: Any | None = None,
    mu_dtype: Any | None = None,
) -> optax.GradientTransformation:
    """Stable-SPAM with decoupled weight decay: see :func:`scale_by_stable_spam`.

    Args:
        learning_rate: step size, or a schedule of the step count.
        b1: see :func:`scale_by_stable_spam`.
        b2: see :func:`scale_by_stable_spam`.
        eps: see :func:`scale_by_stable_spam`.
        gamma1: see :func:`scale_by_stable_spam`.
        gamma2: see :func:`scale_by_stable_spam`.
        gamma3: see :func:`scale_by_stable_spam`.
        reset_interval: see :func:`scale_by_stable_spam`.
        total_steps: see :func:`scale_by_stable_spam`.
        final_scale: see :func:`scale_by_stable_spam`.
        as_released: see :func:`scale_by_stable_spam`.
        weight_decay: decoupled, multiplied by the learning rate.
        mask: pytree of bools, or a function of params giving one: where to decay.
        mu_dtype: see :func:`scale_by_stable_spam`.

    Returns:
        A transformation; its ``update`` needs ``params``.

    Raises:
        ValueError: if a hyperparameter is out of range.

    >>> params = {"w": jnp.ones(3)}
    >>> tx = stable_spam(0.1)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> bool((updates["w"] < 0).all())
    True
    """
    return optax.chain(
        scale_by_stable_spam(
            b1=b1,
            b2=b2,
            eps=eps,
            gamma1=gamma1,
            gamma2=gamma2,
            gamma3=gamma3,
            reset_interval=reset_interval,
            total_steps=total_steps,
            final_scale=final_scale,
            as_released=as_released,
            mu_dtype=mu_dtype,
        ),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
