"""SPAM: Adam that clips spikes, and forgets its moments at intervals."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import bias_correction, cast_like, wide_dtype
from optlab._checks import check_range
from optlab.transforms.adaptive._common import average

__all__ = ["ScaleBySpamState", "scale_by_spam", "spam"]


class ScaleBySpamState(NamedTuple):
    """State of :func:`scale_by_spam`: two moments, 8 bytes per float32 parameter."""

    count: jax.Array  # steps taken; shape=(), dtype=int32
    mu: optax.Updates  # like params, dtype=mu_dtype or the leaf's
    nu: optax.Updates  # like params


def scale_by_spam(
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    threshold: float | None = 5000.0,
    reset_interval: int = 500,
    warmup_steps: int = 150,
    clip_delay: int = 20,
    mu_dtype: Any | None = None,
) -> optax.GradientTransformation:
    r"""Rescales gradients by Adam with spike-aware clipping and momentum reset.

    With :math:`c = t \bmod \Delta T`, both moments are zeroed where c = 0, gradients are clipped
    where c has reached the delay, and steps are short for the first N steps after a reset:

    .. math::
        \tilde g_t &= \operatorname{clip}\big(g_t, \pm\sqrt{\theta v_{t-1}}\big), \qquad
        u_t = s_t \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \frac{m_t}{\sqrt{v_t} + \epsilon} \\
        s_t &= 1 - 0.99 \cdot \tfrac{1}{2} \Big(1 + \cos \frac{\pi c}{N + 1}\Big)
               \text{ if } c < N \text{ and } t \ge \Delta T, \text{ else } 1

    where m and v are Adam's moments of :math:`\tilde g`. An m x n leaf costs 2 m n numbers of
    state.

    An entry whose gradients were all zero until clipping sets in has v = 0: it is clipped to zero,
    and stays so until the next reset. Give embeddings with rare rows to another optimizer.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        threshold: the ratio :math:`\theta` of a squared gradient to the second moment that makes a
            spike; None clips nothing.
        reset_interval: :math:`\Delta T`, in steps.
        warmup_steps: N, the length of the warm-up after a reset; there is none at the beginning.
        clip_delay: steps after a reset in which nothing is clipped, 2 or more.
        mu_dtype: dtype in which the first moment is stored; None keeps the leaf's.

    Returns:
        A transformation; its updates have the gradients' shapes and dtypes. A NaN stays in the
        moments until the next reset; where gradients are clipped, an infinite one is a spike.

    Raises:
        ValueError: if a hyperparameter is out of range.

    >>> tx = scale_by_spam(clip_delay=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> for scale in (1.0, 1.0, 1e6):
    ...     updates, state = tx.update(jnp.array([scale, 1.0]), state)
    >>> bool(updates[0] < 3)
    True

    References:
        T. Huang, Z. Zhu, G. Jin, L. Liu, Z. Wang, S. Liu, "SPAM: Spike-Aware Adam with Momentum
        Reset for Stable LLM Training", ICLR 2025, arXiv:2501.06842

    Differs from the paper: moments are dense, without its sparse-momentum option. As in the
    released code the bias corrections count all steps, and do not start again at a reset, and eps
    is not bias-corrected.
    """
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0, float("inf"), closed="()")
    check_range("threshold", threshold, 0.0, float("inf"), closed="()")
    check_range("reset_interval", reset_interval, 1, float("inf"))
    check_range("warmup_steps", warmup_steps, 0, float("inf"))
    check_range("clip_delay", clip_delay, 2, float("inf"))

    def init(params):
        return ScaleBySpamState(
            count=jnp.zeros((), jnp.int32),
            mu=optax.tree.zeros_like(params, dtype=mu_dtype),
            nu=optax.tree.zeros_like(params),
        )

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        phase = count % reset_interval
        mu, nu = jax.tree.map(lambda x: jnp.where(phase == 0, 0, x), (state.mu, state.nu))

        def clip(g, v):
            dtype = wide_dtype(g)
            limit = jnp.where(phase >= clip_delay, jnp.sqrt(threshold * v.astype(dtype)), jnp.inf)
            return jnp.clip(g.astype(dtype), -limit, limit)

        clipped = updates if threshold is None else jax.tree.map(clip, updates, nu)
        mu = average(mu, clipped, b1)
        nu = average(nu, clipped, b2, power=2)

        cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * phase / (warmup_steps + 1)))
        warming = (phase < warmup_steps) & (count >= reset_interval)
        scale = jnp.where(warming, 1.0 - 0.99 * cosine, 1.0)
        scale *= jnp.sqrt(bias_correction(b2, count)) / bias_correction(b1, count)
        new_updates = jax.tree.map(
            lambda g, m, v: (scale * m / (jnp.sqrt(v) + eps)).astype(g.dtype), updates, mu, nu
        )
        return new_updates, ScaleBySpamState(
            count, cast_like(mu, state.mu), cast_like(nu, state.nu)
        )

    return optax.GradientTransformation(init, update)


def spam(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    threshold: float | None = 5000.0,
    reset_interval: int = 500,
    warmup_steps: int = 150,
    clip_delay: int = 20,
    weight_decay: float = 0.0,
    mask: Any | None = None,
    mu_dtype: Any | None = None,
) -> optax.GradientTransformation:
    """SPAM with decoupled weight decay: see :func:`scale_by_spam`.

    Args:
        learning_rate: step size, or a schedule of the step count.
        b1: see :func:`scale_by_spam`.
        b2: see :func:`scale_by_spam`.
        eps: see :func:`scale_by_spam`.
        threshold: see :func:`scale_by_spam`.
        reset_interval: see :func:`scale_by_spam`.
        warmup_steps: see :func:`scale_by_spam`.
        clip_delay: see :func:`scale_by_spam`.
        weight_decay: decoupled, multiplied by the learning rate.
        mask: pytree of bools, or a function of params giving one: where to decay.
        mu_dtype: see :func:`scale_by_spam`.

    Returns:
        A transformation; its ``update`` needs ``params``.

    Raises:
        ValueError: if a hyperparameter is out of range.

    >>> params = {"w": jnp.ones(3)}
    >>> tx = spam(0.1)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> bool((updates["w"] < 0).all())
    True

    Differs from the released code: the decay uses the old iterate, as AdamW's does, not the new
    one; the steps differ by the learning rate squared.
    """
    return optax.chain(
        scale_by_spam(
            b1=b1,
            b2=b2,
            eps=eps,
            threshold=threshold,
            reset_interval=reset_interval,
            warmup_steps=warmup_steps,
            clip_delay=clip_delay,
            mu_dtype=mu_dtype,
        ),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
