"""Averages of the iterates that weigh late ones by a power of the step count."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import wide
from optlab._checks import check_range

__all__ = ["PolynomialAveragingState", "averaged_params", "polynomial_averaging"]


class PolynomialAveragingState(NamedTuple):
    """State of :func:`polynomial_averaging`: 4 m n bytes for an m x n matrix in float32."""

    count: jax.Array  # shape=(), dtype=int32
    average: optax.Params  # like params, dtype=float32 or wider


def polynomial_averaging(*, gamma: float = 8.0) -> optax.GradientTransformation:
    r"""Keeps an average of the params, and passes the updates on: the last of a chain.

    .. math::
        \bar x_t = \Big(1 - \frac{\gamma + 1}{\gamma + t}\Big) \bar x_{t-1}
            + \frac{\gamma + 1}{\gamma + t} x_t, \qquad t = 1, 2, \ldots

    so that :math:`x_t` has a weight that grows as :math:`t^\gamma`: 0 gives the mean. Read it with
    :func:`averaged_params`. An m x n leaf costs m n numbers of state.

    Args:
        gamma: the power, not negative; the authors of DoG take 8 for all of their tasks.

    Returns:
        A transformation; its ``update`` needs ``params``. NaN and inf propagate.

    Raises:
        ValueError: if ``gamma`` is negative, or params are missing.

    >>> tx = optax.chain(optax.sgd(1.0), polynomial_averaging(gamma=0.0))
    >>> params = jnp.zeros(2)
    >>> state = tx.init(params)
    >>> for g in jnp.array([[-1.0, 1.0], [-2.0, 2.0]]):
    ...     updates, state = tx.update(g, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> averaged_params(state, params).tolist()
    [2.0, -2.0]

    References:
        O. Shamir, T. Zhang, "Stochastic Gradient Descent for Non-smooth Optimization: Convergence
        Results and Optimal Averaging Schemes", ICML 2013, arXiv:1212.1824; M. Ivgi, O. Hinder,
        Y. Carmon, "DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule",
        ICML 2023, arXiv:2302.12022

    Differs from the paper: nothing. Differs from DoG's released code: that averages a model's
    buffers too.
    """
    check_range("gamma", gamma, 0.0, math.inf)

    def init(params):
        return PolynomialAveragingState(
            count=jnp.zeros((), jnp.int32), average=jax.tree.map(jnp.copy, wide(params))
        )

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("params must be given to the update.")
        count = optax.safe_increment(state.count)
        weight = (gamma + 1.0) / (gamma + count)

        def leaf(average, p):
            c = weight.astype(average.dtype)
            return (1.0 - c) * average + c * p

        average = jax.tree.map(leaf, state.average, wide(optax.apply_updates(params, updates)))
        return updates, PolynomialAveragingState(count=count, average=average)

    return optax.GradientTransformation(init, update)


def averaged_params(opt_state: optax.OptState, params: optax.Params) -> Any:
    """Gives the average that :func:`polynomial_averaging` keeps, to evaluate a model with.

    Args:
        opt_state: the state of an optimizer with one such average anywhere in it.
        params: the present params.

    Returns:
        The average, with the dtypes of ``params``; they themselves before the first update.

    Raises:
        ValueError: if ``opt_state`` holds no average, or several.

    >>> tx = optax.chain(optax.sgd(0.1), polynomial_averaging())
    >>> averaged_params(tx.init(jnp.ones(2)), jnp.ones(2)).tolist()
    [1.0, 1.0]
    """

    def is_average(node):
        return isinstance(node, PolynomialAveragingState)

    found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_average) if is_average(x)]
    if len(found) != 1:
        raise ValueError(f"opt_state must hold one polynomial average, it holds {len(found)}.")
    return jax.tree.map(lambda a, p: a.astype(p.dtype), found[0].average, params)
