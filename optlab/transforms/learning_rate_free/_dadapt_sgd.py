"""D-Adaptation of SGD: the distance to the solution, estimated from below, sets the step."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import cast_like, value_at, wide
from optlab._checks import check_range
from optlab.linalg import global_norm
from optlab.transforms.learning_rate_free._shared import decayed, dot, grown, ratio, scalar, zeros

__all__ = ["DAdaptSGDState", "dadapt_sgd"]


class DAdaptSGDState(NamedTuple):
    """State of :func:`dadapt_sgd`: 8 m n bytes for an m x n matrix in float32."""

    count: jax.Array  # shape=(), dtype=int32
    d: jax.Array  # shape=(), dtype=float32 or wider: the estimated distance
    numerator: jax.Array  # shape=(), dtype=float32 or wider
    first_norm: jax.Array  # shape=(), dtype=float32 or wider: of the first gradient but zero
    grad_sum: optax.Updates  # like params, dtype=float32 or wider: weighted gradients
    displacement: optax.Updates  # like params, dtype=float32 or wider: x_0 - x_t


def dadapt_sgd(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    momentum: float = 0.0,
    d0: float = 1e-6,
    growth_rate: float = math.inf,
    weight_decay: float = 0.0,
    mask: Any | None = None,
) -> optax.GradientTransformation:
    r"""SGD, with momentum by primal averaging, whose step size D-Adaptation sets.

    .. math::
        a_t = d_t \eta_t / \|g_0\|, \qquad s_{t+1} = s_t + a_t g_t, \qquad
        x_{t+1} = \mu x_t + (1 - \mu)(x_0 - s_{t+1}),

        d_{t+1} = \max\Big(d_t, \frac{2 \sum_{k \le t} a_k \langle g_k, s_k \rangle}
        {\|s_{t+1}\|}\Big)

    With full gradients of a convex loss, and without momentum,
    :math:`d_t \le \max(d_0, 2 \|x_0 - x^*\|)`. All norms are of the whole tree.

    An m x n leaf costs 2 m n numbers of state.

    Args:
        learning_rate: factor of the estimated step, or a schedule of the step count: leave the peak
            at 1.
        momentum: weight of the old iterate, in [0, 1).
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
    >>> tx = dadapt_sgd(d0=0.1)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> bool(jnp.allclose(updates["w"], jnp.array([-0.06, 0.08])))
    True

    References:
        A. Defazio, K. Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", ICML 2023,
        arXiv:2301.07733

    Differs from the paper: the growth can be bounded, and gradients of zero take no step. Differs
    from the released code: it keeps :math:`x_0 - x_t`, which does not cancel in float32, for three
    copies of the params; the norm of the first gradient includes the weight decay.
    """
    check_range("momentum", momentum, 0.0, 1.0)
    check_range("d0", d0, 0.0, math.inf, closed="()")
    check_range("growth_rate", growth_rate, 1.0, math.inf, closed="(]")

    def init(params):
        return DAdaptSGDState(
            count=jnp.zeros((), jnp.int32),
            d=scalar(d0, params),
            numerator=scalar(0.0, params),
            first_norm=scalar(0.0, params),
            grad_sum=zeros(params),
            displacement=zeros(params),
        )

    def update(updates, state, params=None):
        g = decayed(wide(updates), params, weight_decay, mask)
        first_norm = jnp.where(state.first_norm == 0, global_norm(g), state.first_norm)
        rate = ratio(state.d * value_at(learning_rate, state.count), first_norm)
        # The step times the gradient: either factor alone may be too large or too small.
        step = jax.tree.map(lambda g: rate * g, g)
        numerator = state.numerator + dot(step, state.grad_sum)
        grad_sum = jax.tree.map(jnp.add, state.grad_sum, step)
        new_updates = jax.tree.map(
            lambda g, x, s: ((1.0 - momentum) * (x - s)).astype(g.dtype),
            updates,
            state.displacement,
            grad_sum,
        )
        new_state = DAdaptSGDState(
            count=optax.safe_increment(state.count),
            d=grown(state.d, ratio(2.0 * numerator, global_norm(grad_sum)), growth_rate),
            numerator=numerator,
            first_norm=first_norm,
            grad_sum=grad_sum,
            displacement=jax.tree.map(jnp.subtract, state.displacement, new_updates),
        )
        return new_updates, cast_like(new_state, state)

    return optax.GradientTransformation(init, update)
