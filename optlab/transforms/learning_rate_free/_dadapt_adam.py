"""D-Adaptation of Adam."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import cast_like, value_at, wide
from optlab._checks import check_range
from optlab.transforms.learning_rate_free._shared import (
    adam_correction,
    decayed,
    dot,
    grown,
    l1_norm,
    ratio,
    scalar,
    zeros,
)

__all__ = ["DAdaptAdamState", "dadapt_adam"]


class DAdaptAdamState(NamedTuple):
    """State of :func:`dadapt_adam`: 12 m n bytes for an m x n matrix in float32."""

    count: jax.Array  # shape=(), dtype=int32
    d: jax.Array  # shape=(), dtype=float32 or wider: the estimated distance
    numerator: jax.Array  # shape=(), dtype=float32 or wider
    mu: optax.Updates  # like params, dtype=float32 or wider: moment of the scaled gradients
    nu: optax.Updates  # like params, dtype=float32 or wider: moment of the squares
    grad_sum: optax.Updates  # like params, dtype=float32 or wider: average of scaled gradients


def dadapt_adam(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    d0: float = 1e-6,
    growth_rate: float = math.inf,
    use_bias_correction: bool = False,
    weight_decay: float = 0.0,
    mask: Any | None = None,
) -> optax.GradientTransformation:
    r"""Adam whose step size D-Adaptation sets: one number for the whole tree.

    With :math:`a_t = d_t \eta_t` and :math:`\bar\beta = \sqrt{\beta_2}`,

    .. math::
        r_{t+1} &= \bar\beta r_t
            + (1 - \bar\beta)\, a_t \langle g_t, s_t / (\sqrt{v_t} + \epsilon) \rangle \\
        s_{t+1} &= \bar\beta s_t + (1 - \bar\beta)\, a_t g_t \\
        m_{t+1} &= \beta_1 m_t + (1 - \beta_1)\, a_t g_t, \qquad
        v_{t+1} = \beta_2 v_t + (1 - \beta_2) g_t^2 \\
        d_{t+1} &= \max\big(d_t, r_{t+1} / ((1 - \bar\beta) \|s_{t+1}\|_1)\big) \\
        x_{t+1} &= x_t - m_{t+1} / (\sqrt{v_{t+1}} + \epsilon) - \lambda a_t x_t

    An m x n leaf costs 3 m n numbers of state.

    Args:
        learning_rate: factor of the estimated step, or a schedule of the step count: leave the peak
            at 1.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, positive.
        d0: first estimate of the distance, well below the true one.
        growth_rate: the largest factor by which the estimate grows in a step; 1.02 warms up.
        use_bias_correction: multiply the step by Adam's correction of both moments.
        weight_decay: decoupled, multiplied by the step; for a coupled one put
            ``optax.add_decayed_weights`` before.
        mask: pytree of bools, or a function of params giving one: where to decay.

    Returns:
        A transformation; its updates have the gradients' dtypes, its ``update`` needs ``params``.
        NaN and inf propagate.

    Raises:
        ValueError: if a hyperparameter is out of range.

    >>> params = {"w": jnp.array([3.0, -4.0])}
    >>> tx = dadapt_adam(d0=0.1, use_bias_correction=True)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> bool(jnp.allclose(updates["w"], jnp.array([-0.1, 0.1]), rtol=1e-4))
    True

    References:
        A. Defazio, K. Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", ICML 2023,
        arXiv:2301.07733

    Differs from the paper: the growth can be bounded. Differs from the released code: the decay is
    decoupled, and acts even before the first gradient that is not zero; there is no scale a layer.
    Differs from ``optax.contrib.dadapt_adamw``: the bias correction is an option, and zero
    gradients give no NaN.
    """
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0, math.inf, closed="()")
    check_range("d0", d0, 0.0, math.inf, closed="()")
    check_range("growth_rate", growth_rate, 1.0, math.inf, closed="(]")

    def init(params):
        return DAdaptAdamState(
            count=jnp.zeros((), jnp.int32),
            d=scalar(d0, params),
            numerator=scalar(0.0, params),
            mu=zeros(params),
            nu=zeros(params),
            grad_sum=zeros(params),
        )

    def update(updates, state, params=None):
        g = wide(updates)
        count = optax.safe_increment(state.count)
        rate = state.d * value_at(learning_rate, state.count)
        if use_bias_correction:
            rate *= adam_correction(b1, b2, count)
        b = b2**0.5

        step = jax.tree.map(lambda g: rate * g, g)
        scaled_sum = jax.tree.map(lambda s, v: s / (jnp.sqrt(v) + eps), state.grad_sum, state.nu)
        numerator = b * state.numerator + (1.0 - b) * dot(step, scaled_sum)
        grad_sum = jax.tree.map(lambda s, a: b * s + (1.0 - b) * a, state.grad_sum, step)
        mu = jax.tree.map(lambda m, a: b1 * m + (1.0 - b1) * a, state.mu, step)
        nu = jax.tree.map(lambda v, g: b2 * v + (1.0 - b2) * g * g, state.nu, g)

        direction = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        direction = decayed(direction, params, weight_decay * rate, mask)
        new_updates = jax.tree.map(lambda g, u: -u.astype(g.dtype), updates, direction)
        estimate = ratio(numerator, (1.0 - b) * l1_norm(grad_sum))
        new_state = DAdaptAdamState(
            count=count,
            d=grown(state.d, estimate, growth_rate),
            numerator=numerator,
            mu=mu,
            nu=nu,
            grad_sum=grad_sum,
        )
        return new_updates, cast_like(new_state, state)

    return optax.GradientTransformation(init, update)
