"""Mechanic: a betting game that learns the factor of any optimizer's updates."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import cast_like, wide
from optlab._checks import check_range
from optlab.linalg import global_norm
from optlab.transforms.learning_rate_free._shared import dot, scalar, zeros

__all__ = ["MechanicState", "mechanic"]


class MechanicState(NamedTuple):
    """State of :func:`mechanic`: 4 m n bytes for an m x n matrix in float32, and the base's."""

    base: optax.OptState  # of the base optimizer
    delta: optax.Updates  # like params, dtype=float32 or wider: sum of the base's updates
    factors: jax.Array  # shape=(len(betas),), dtype=float32 or wider: their sum is the scale
    reward: jax.Array  # shape=(len(betas),), dtype=float32 or wider
    sum_of_squares: jax.Array  # shape=(len(betas),), dtype=float32 or wider
    largest: jax.Array  # shape=(len(betas),), dtype=float32 or wider: of the inner products


def mechanic(
    base: optax.GradientTransformation | None = None,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    s_decay: float = 0.01,
    betas: Sequence[float] = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999),
    s_init: float = 1e-8,
    eps: float = 1e-8,
    store_delta: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Learns the factor of another optimizer's updates, as gamblers learn their stake.

    With updates :math:`u_t` of the base, :math:`\Delta_t` their sum, one gambler for each of the n
    decays :math:`\beta`, and :math:`S_t` the sum of their factors :math:`s_t`,

    .. math::
        \bar\Delta_t &= \frac{S_t}{S_t + \epsilon} \Delta_t, \qquad p_t = x_t + u_t, \qquad
        h_t = \Big\langle \bar\Delta_t,
            g_t + \lambda S_t \frac{\|g_t\|}{\|p_t\| + \epsilon} p_t \Big\rangle \\
        m_t &= \max(\beta m_{t-1}, |h_t|), \qquad v_t = \beta^2 v_{t-1} + h_t^2, \qquad
        r_t = \max(0, \beta r_{t-1} - s_t h_t) \\
        s_{t+1} &= \frac{m_t s_0 / n + r_t}{\sqrt{v_t} + \epsilon}, \qquad
        \Delta_{t+1} = \bar\Delta_t + u_t, \qquad
        x_{t+1} = x_0 + S_{t+1} \Delta_{t+1}

    Around Adam an m x n leaf costs 3 m n numbers of state: two of the base, and the sum.

    Args:
        base: the optimizer to tune, at any learning rate and with its schedule; None means
            ``optax.adam(1.0)``.
        learning_rate: factor of the base's updates, or a schedule of the step count with peak 1.
        s_decay: strength lambda of the decay inside the game, not negative.
        betas: decays of the gamblers, each in (0, 1].
        s_init: first stake, positive, well below the right factor.
        eps: added to denominators, positive.
        store_delta: take :math:`\bar\Delta = \Delta`, as the paper does; the factor differs from
            1 in the first steps only.

    Returns:
        A transformation, the last of its chain: it follows the params by its own updates, which
        have the gradients' dtypes. ``update`` needs ``params`` and passes extra arguments to the
        base. NaN and inf propagate.

    Raises:
        ValueError: if a hyperparameter is out of range.

    >>> params = {"w": jnp.array([3.0, -4.0])}
    >>> tx = mechanic(optax.sgd(0.1), s_init=1.0)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> bool((updates["w"] * params["w"] < 0).all())
    True

    References:
        A. Cutkosky, A. Defazio, H. Mehta, "Mechanic: A Learning Rate Tuner", NeurIPS 2023,
        arXiv:2306.00144

    Differs from the paper, as the released code does: m takes the magnitude of h and starts at
    1e-6, the decay uses the base's iterate p for x, and :math:`\Delta` shrinks a little. Differs
    from that code: :math:`\Delta` is kept for :math:`x_0`, so nothing cancels in float32. Differs
    from ``optax.contrib.mechanize``: that clips h by m, starts at ``s_init``, and decays towards x.
    """
    if not betas:
        raise ValueError("betas must not be empty.")
    for beta in betas:
        check_range("betas", beta, 0.0, 1.0, closed="(]")
    check_range("s_decay", s_decay, 0.0, math.inf)
    check_range("s_init", s_init, 0.0, math.inf, closed="()")
    check_range("eps", eps, 0.0, math.inf, closed="()")
    base = optax.adam(1.0) if base is None else base
    base = optax.chain(base, optax.scale_by_learning_rate(learning_rate, flip_sign=False))

    def init(params):
        def gamblers(value):
            return scalar([value] * len(betas), params)

        return MechanicState(
            base=base.init(params),
            delta=zeros(params),
            factors=gamblers(0.0),
            reward=gamblers(0.0),
            sum_of_squares=gamblers(0.0),
            largest=gamblers(1e-6),
        )

    def update(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError("params must be given to the update.")
        base_updates, base_state = base.update(updates, state.base, params, **extra_args)
        g, u = wide(updates), wide(base_updates)
        beta = jnp.asarray(betas, state.factors.dtype)
        scale = jnp.sum(state.factors)

        kept = 1.0 if store_delta else scale / (scale + eps)
        delta = jax.tree.map(lambda x: kept * x, state.delta)
        proposed = jax.tree.map(jnp.add, wide(params), u)
        pull = s_decay * scale * global_norm(g) / (global_norm(proposed) + eps)
        h = dot(delta, g) + pull * dot(delta, proposed)
        largest = jnp.maximum(beta * state.largest, jnp.abs(h))
        sum_of_squares = beta**2 * state.sum_of_squares + h**2
        reward = jnp.maximum(0.0, beta * state.reward - state.factors * h)
        wealth = largest * (s_init / len(betas)) + reward
        factors = wealth / (jnp.sqrt(sum_of_squares) + eps)

        delta = jax.tree.map(jnp.add, delta, u)
        new_scale = jnp.sum(factors)
        new_updates = jax.tree.map(
            lambda g, new, old: (new_scale * new - scale * old).astype(g.dtype),
            updates,
            delta,
            state.delta,
        )
        new_state = MechanicState(
            base=base_state,
            delta=delta,
            factors=factors,
            reward=reward,
            sum_of_squares=sum_of_squares,
            largest=largest,
        )
        return new_updates, cast_like(new_state, state)

    return optax.GradientTransformationExtraArgs(init, update)
