"""D-Adaptation of AdaGrad."""

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

__all__ = ["DAdaptAdaGradState", "dadapt_adagrad"]


class DAdaptAdaGradState(NamedTuple):
    """State of :func:`dadapt_adagrad`: 12 m n bytes for an m x n matrix in float32."""

    count: jax.Array  # shape=(), dtype=int32
    d: jax.Array  # shape=(), dtype=float32 or wider: the estimated distance
    weighted_squares: jax.Array  # shape=(), dtype=float32 or wider
    sum_of_squares: optax.Updates  # like params, dtype=float32 or wider
    grad_sum: optax.Updates  # like params, dtype=float32 or wider: weighted gradients
    displacement: optax.Updates  # like params, dtype=float32 or wider: x_0 - x_t


def dadapt_adagrad(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    momentum: float = 0.0,
    initial_accumulator_value: float = 1e-6,
    eps: float = 1e-6,
    d0: float = 1e-6,
    growth_rate: float = math.inf,
    weight_decay: float = 0.0,
    mask: Any | None = None,
) -> optax.GradientTransformation:
    r"""Dual-averaged AdaGrad whose step size D-Adaptation sets.

    With :math:`a_t = d_t \eta_t` and :math:`A_t = \sqrt{\alpha_t} + \epsilon`,

    .. math::
        \alpha_{t+1} &= \alpha_t + g_t^2, \qquad s_{t+1} = s_t + a_t g_t \\
        d_{t+1} &= \max\Big(d_t, \frac{\langle s_{t+1}, s_{t+1} / A_{t+1} \rangle
            - \sum_{k \le t} a_k^2 \langle g_k, g_k / A_{k+1} \rangle}{\|s_{t+1}\|_1}\Big) \\
        x_{t+1} &= \mu x_t + (1 - \mu)(x_0 - s_{t+1} / A_{t+1})

    Its estimate grows more slowly than the other variants': the authors advise those first.

    An m x n leaf costs 3 m n numbers of state.

    Args:
        learning_rate: factor of the estimated step, or a schedule of the step count: leave the peak
            at 1.
        momentum: weight of the old iterate, in [0, 1).
        initial_accumulator_value: where the sum of squares starts, not negative.
        eps: added to the root of the sum of squares, positive.
        d0: first estimate of the distance, well below the true one.
        growth_rate: the largest factor by which the estimate grows in a step.
        weight_decay: coupled: added to the gradient, times the params.
        mask: pytree of bools, or a function of params giving one: where to decay.

    Returns:
        A transformation, the last of its chain: it follows the params by its own updates, which
        have the gradients' dtypes. ``update`` needs ``params``. NaN and inf propagate.

    Raises:
        ValueError: if a hyperparameter is out of range.

    >>> params = {"w": jnp.array([3.0, -4.0])}
    >>> tx = dadapt_adagrad(d0=0.1)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> bool(jnp.allclose(updates["w"], jnp.array([-0.1, 0.1])))
    True

    References:
        A. Defazio, K. Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", ICML 2023,
        arXiv:2301.07733

    Differs from the paper: the growth can be bounded, and iterates averaged. Differs from the
    released code: it keeps :math:`x_0 - x_t`, which does not cancel in float32, for the first
    params, and has no branch for sparse gradients.
    """
    check_range("momentum", momentum, 0.0, 1.0)
    check_range("initial_accumulator_value", initial_accumulator_value, 0.0, math.inf)
    check_range("eps", eps, 0.0, math.inf, closed="()")
    check_range("d0", d0, 0.0, math.inf, closed="()")
    check_range("growth_rate", growth_rate, 1.0, math.inf, closed="(]")

    def init(params):
        return DAdaptAdaGradState(
            count=jnp.zeros((), jnp.int32),
            d=scalar(d0, params),
            weighted_squares=scalar(0.0, params),
            sum_of_squares=jax.tree.map(lambda z: z + initial_accumulator_value, zeros(params)),
            grad_sum=zeros(params),
            displacement=zeros(params),
        )

    def update(updates, state, params=None):
        g = decayed(wide(updates), params, weight_decay, mask)
        rate = state.d * value_at(learning_rate, state.count)
        step = jax.tree.map(lambda g: rate * g, g)
        sum_of_squares = jax.tree.map(lambda a, g: a + g * g, state.sum_of_squares, g)
        grad_sum = jax.tree.map(jnp.add, state.grad_sum, step)

        def scaled(tree):
            return jax.tree.map(lambda x, a: x / (jnp.sqrt(a) + eps), tree, sum_of_squares)

        target = scaled(grad_sum)
        weighted_squares = state.weighted_squares + dot(step, scaled(step))
        estimate = ratio(dot(grad_sum, target) - weighted_squares, l1_norm(grad_sum))
        new_updates = jax.tree.map(
            lambda g, x, z: ((1.0 - momentum) * (x - z)).astype(g.dtype),
            updates,
            state.displacement,
            target,
        )
        new_state = DAdaptAdaGradState(
            count=optax.safe_increment(state.count),
            d=grown(state.d, estimate, growth_rate),
            weighted_squares=weighted_squares,
            sum_of_squares=sum_of_squares,
            grad_sum=grad_sum,
            displacement=jax.tree.map(jnp.subtract, state.displacement, new_updates),
        )
        return new_updates, cast_like(new_state, state)

    return optax.GradientTransformation(init, update)
