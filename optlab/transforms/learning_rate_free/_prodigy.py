"""Prodigy: Adam whose step is an estimate of the distance to the solution."""

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
    l1_norm,
    ratio,
    scalar,
    zeros,
)

__all__ = ["ProdigyState", "prodigy"]


class ProdigyState(NamedTuple):
    """State of :func:`prodigy`: 16 m n bytes for an m x n matrix in float32."""

    count: jax.Array  # shape=(), dtype=int32
    d: jax.Array  # shape=(), dtype=float32 or wider: the estimated distance
    d_max: jax.Array  # shape=(), dtype=float32 or wider: the estimate were its growth free
    numerator: jax.Array  # shape=(), dtype=float32 or wider
    mu: optax.Updates  # like params, dtype=float32 or wider: moment of d g
    nu: optax.Updates  # like params, dtype=float32 or wider: moment of (d g)^2
    grad_sum: optax.Updates  # like params, dtype=float32 or wider: weighted gradients
    displacement: optax.Updates  # like params, dtype=float32 or wider: x_0 - x_t


def prodigy(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    b3: float | None = None,
    eps: float = 1e-8,
    d0: float = 1e-6,
    d_coef: float = 1.0,
    growth_rate: float = math.inf,
    use_bias_correction: bool = False,
    safeguard_warmup: bool = False,
    weight_decay: float = 0.0,
    mask: Any | None = None,
) -> optax.GradientTransformation:
    r"""Adam whose step size is an estimate of the distance to the solution, one for the whole tree.

    With :math:`a_t = d_t \eta_t`,

    .. math::
        r_{t+1} &= \beta_3 r_t + \tfrac{d_t}{d_0} a_t \langle g_t, x_0 - x_t \rangle, \qquad
        s_{t+1} = \beta_3 s_t + \tfrac{d_t}{d_0} a_t g_t \\
        m_{t+1} &= \beta_1 m_t + (1 - \beta_1)\, d_t g_t, \qquad
        v_{t+1} = \beta_2 v_t + (1 - \beta_2)\, d_t^2 g_t^2 \\
        d_{t+1} &= \max(d_t, c\, r_{t+1} / \|s_{t+1}\|_1) \\
        x_{t+1} &= x_t - a_t \big(m_{t+1} / (\sqrt{v_{t+1}} + d_{t+1} \epsilon) + \lambda x_t\big)

    With full gradients of a convex loss, and without the safeguard,
    :math:`d_t \le \max(d_0, c \|x_0 - x^*\|_\infty)`.

    An m x n leaf costs 4 m n numbers of state.

    Args:
        learning_rate: factor of the estimated step, or a schedule of the step count: leave the peak
            at 1.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        b3: decay of the sums behind the estimate, in [0, 1); None means the root of ``b2``.
        eps: added to the root of the second moment, times the estimate; positive.
        d0: first estimate of the distance, well below the true one.
        d_coef: factor c of the estimate, positive: what to tune, if anything.
        growth_rate: the largest factor by which the estimate grows in a step.
        use_bias_correction: multiply the step by Adam's correction of both moments.
        safeguard_warmup: weigh the gradients in ``s`` by :math:`d_t` for :math:`a_t`, so that small
            rates of a warm-up do not inflate the estimate.
        weight_decay: decoupled, multiplied by the step; for a coupled one put
            ``optax.add_decayed_weights`` before.
        mask: pytree of bools, or a function of params giving one: where to decay.

    Returns:
        A transformation, the last of its chain: it follows the params by its own updates, which
        have the gradients' dtypes. ``update`` needs ``params``. NaN and inf propagate.

    Raises:
        ValueError: if a hyperparameter is out of range.

    >>> params = {"w": jnp.array([3.0, -4.0])}
    >>> tx = prodigy(d0=0.1, use_bias_correction=True)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> bool(jnp.allclose(updates["w"], jnp.array([-0.1, 0.1]), rtol=1e-4))
    True

    References:
        K. Mishchenko, A. Defazio, "Prodigy: An Expeditiously Adaptive Parameter-Free Learner",
        ICML 2024, arXiv:2306.06101

    Differs from the paper: eps is multiplied by the new estimate, the sums are divided by
    :math:`d_0`, and the options are the released code's. Differs from that code: it keeps
    :math:`x_0 - x_t` for :math:`x_0`, whose difference to :math:`x_t` cancels in float32 while d is
    small; there is no slicing of the sums. Differs from ``optax.contrib.prodigy``: the bias
    correction is an option, off as the authors' is; zero gradients give no NaN; the state does not
    alias the params.
    """
    for name, value in {"b1": b1, "b2": b2, "b3": b3}.items():
        check_range(name, value, 0.0, 1.0)
    for name, value in {"eps": eps, "d0": d0, "d_coef": d_coef}.items():
        check_range(name, value, 0.0, math.inf, closed="()")
    check_range("growth_rate", growth_rate, 1.0, math.inf, closed="(]")

    def init(params):
        return ProdigyState(
            count=jnp.zeros((), jnp.int32),
            d=scalar(d0, params),
            d_max=scalar(d0, params),
            numerator=scalar(0.0, params),
            mu=zeros(params),
            nu=zeros(params),
            grad_sum=zeros(params),
            displacement=zeros(params),
        )

    def update(updates, state, params=None):
        g = wide(updates)
        count = optax.safe_increment(state.count)
        d, b = state.d, b2**0.5 if b3 is None else b3
        rate = d * value_at(learning_rate, state.count)
        if use_bias_correction:
            rate *= adam_correction(b1, b2, count)

        weight = d / d0
        numerator = b * state.numerator + weight * rate * dot(g, state.displacement)
        grad_weight = weight * (d if safeguard_warmup else rate)
        grad_sum = jax.tree.map(lambda s, g: b * s + grad_weight * g, state.grad_sum, g)
        mu = jax.tree.map(lambda m, g: b1 * m + (1.0 - b1) * (d * g), state.mu, g)
        nu = jax.tree.map(lambda v, g: b2 * v + (1.0 - b2) * (d * g) ** 2, state.nu, g)

        estimate = d_coef * ratio(numerator, l1_norm(grad_sum))
        d_max = jnp.maximum(state.d_max, estimate)
        # The first rise above d0 is free of the growth rate.
        new_d = jnp.minimum(d_max, jnp.where(d == d0, jnp.maximum(d, estimate), d) * growth_rate)

        direction = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + new_d * eps), mu, nu)
        direction = decayed(direction, params, weight_decay, mask)
        new_updates = jax.tree.map(lambda g, u: (-rate * u).astype(g.dtype), updates, direction)
        new_state = ProdigyState(
            count=count,
            d=new_d,
            d_max=d_max,
            numerator=numerator,
            mu=mu,
            nu=nu,
            grad_sum=grad_sum,
            displacement=jax.tree.map(jnp.subtract, state.displacement, new_updates),
        )
        return new_updates, cast_like(new_state, state)

    return optax.GradientTransformation(init, update)
