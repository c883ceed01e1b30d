"""D-Adaptation of Lion."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import cast_like, value_at, wide
from optlab._checks import check_range
from optlab.transforms.learning_rate_free._shared import (
    decayed,
    dot,
    grown,
    l1_norm,
    ratio,
    scalar,
    zeros,
)

__all__ = ["DAdaptLionState", "dadapt_lion"]


class DAdaptLionState(NamedTuple):
    """State of :func:`dadapt_lion`: 8 m n bytes for an m x n matrix in float32."""

    count: jax.Array  # shape=(), dtype=int32
    d: jax.Array  # shape=(), dtype=float32 or wider: the estimated distance
    numerator: jax.Array  # shape=(), dtype=float32 or wider
    mu: optax.Updates  # like params, dtype=float32 or wider: moment of the scaled gradients
    sign_sum: optax.Updates  # like params, dtype=float32 or wider: average of scaled signs


def dadapt_lion(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    b1: float = 0.9,
    b2: float = 0.99,
    d0: float = 1e-6,
    growth_rate: float = math.inf,
    weight_decay: float = 0.0,
    mask: Any | None = None,
) -> optax.GradientTransformation:
    r"""Lion whose step size D-Adaptation sets.

    With :math:`a_t = d_t \eta_t` and :math:`\bar\beta = \sqrt{\beta_2}`,

    .. math::
        u_t &= \operatorname{sign}(\beta_1 m_t + (1 - \beta_1) g_t), \qquad
        x_{t+1} = x_t - a_t (u_t + \lambda x_t) \\
        m_{t+1} &= \beta_2 m_t + (1 - \beta_2)\, a_t g_t \\
        r_{t+1} &= \bar\beta r_t + (1 - \bar\beta)\, a_t \langle u_t, s_t \rangle, \qquad
        s_{t+1} = \bar\beta s_t + (1 - \bar\beta)\, a_t u_t \\
        d_{t+1} &= \max\big(d_t, r_{t+1} / ((1 - \bar\beta) \|s_{t+1}\|_1)\big)

    The moment is of :math:`a_t g_t` but is added to :math:`g_t`: while the step is small, the sign
    is the gradient's. Signs tell nothing of how near the solution is, and the estimate can run
    away: on a problem that has none, such as separable logistic regression, bound its growth.

    An m x n leaf costs 2 m n numbers of state.

    Args:
        learning_rate: factor of the estimated step, or a schedule of the step count: leave the peak
            at 1.
        b1: weight of the momentum in the update, in [0, 1).
        b2: decay of the momentum, in [0, 1).
        d0: first estimate of the distance, well below the true one.
        growth_rate: the largest factor by which the estimate grows in a step.
        weight_decay: decoupled, multiplied by the step.
        mask: pytree of bools, or a function of params giving one: where to decay.

    Returns:
        A transformation; its updates have the gradients' dtypes, its ``update`` needs ``params``.
        NaN and inf propagate.

    Raises:
        ValueError: if a hyperparameter is out of range.

    >>> params = {"w": jnp.array([3.0, -4.0])}
    >>> tx = dadapt_lion(d0=0.5)
    >>> tx.update(params, tx.init(params), params)[0]["w"].tolist()
    [-0.5, 0.5]

    References:
        A. Defazio, K. Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", ICML 2023,
        arXiv:2301.07733; X. Chen et al., "Symbolic Discovery of Optimization Algorithms",
        NeurIPS 2023, arXiv:2302.06675

    Differs from the paper: it has no Lion; the rule is the released code's, which calls it
    experimental. Differs from that code: the growth can be bounded.
    """
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("d0", d0, 0.0, math.inf, closed="()")
    check_range("growth_rate", growth_rate, 1.0, math.inf, closed="(]")

    def init(params):
        return DAdaptLionState(
            count=jnp.zeros((), jnp.int32),
            d=scalar(d0, params),
            numerator=scalar(0.0, params),
            mu=zeros(params),
            sign_sum=zeros(params),
        )

    def update(updates, state, params=None):
        g = wide(updates)
        rate = state.d * value_at(learning_rate, state.count)
        b = b2**0.5

        signs = jax.tree.map(lambda m, g: jnp.sign(b1 * m + (1.0 - b1) * g), state.mu, g)
        numerator = b * state.numerator + (1.0 - b) * rate * dot(signs, state.sign_sum)
        sign_sum = jax.tree.map(lambda s, u: b * s + (1.0 - b) * rate * u, state.sign_sum, signs)
        mu = jax.tree.map(lambda m, g: b2 * m + (1.0 - b2) * rate * g, state.mu, g)

        new_updates = jax.tree.map(
            lambda g, u: (-rate * u).astype(g.dtype),
            updates,
            decayed(signs, params, weight_decay, mask),
        )
        estimate = ratio(numerator, (1.0 - b) * l1_norm(sign_sum))
        new_state = DAdaptLionState(
            count=optax.safe_increment(state.count),
            d=grown(state.d, estimate, growth_rate),
            numerator=numerator,
            mu=mu,
            sign_sum=sign_sum,
        )
        return new_updates, cast_like(new_state, state)

    return optax.GradientTransformation(init, update)
