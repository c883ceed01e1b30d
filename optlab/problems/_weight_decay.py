"""A weight decay for every parameter, chosen on held-out data."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from optlab.base import BilevelProblem, Params, PyTree, Scalar

__all__ = ["parameter_decay"]


def parameter_decay(loss: Callable[[Params, PyTree], Scalar]) -> BilevelProblem:
    r"""Learns how strongly each parameter is drawn to zero.

    .. math::
        \min_x \ell(y^*(x); \text{held-out}), \qquad
        y^*(x) = \arg\min_y \ell(y; \text{training})
            + \tfrac12 \textstyle\sum_i e^{x_i} y_i^2

    Args:
        loss: ``(params, batch) -> scalar``; its batches are those of both levels.

    Returns:
        The problem; y is the parameters, and x, the logarithms of the decays, is a tree like them,
        or one with a scalar in the place of an array, for a decay that all of it shares.

    >>> problem = parameter_decay(lambda params, batch: jnp.mean((batch @ params) ** 2))
    >>> float(problem.inner(jnp.zeros(3), jnp.ones(3), jnp.zeros((2, 3))))
    1.5

    References:
        J. Lorraine, P. Vicol, D. Duvenaud, "Optimizing Millions of Hyperparameters by Implicit
        Differentiation", AISTATS 2020, arXiv:1911.02590
    """

    def outer(x, y, batch):
        del x
        return loss(y, batch)

    def inner(x, y, batch):
        penalties = jax.tree.map(lambda log, p: jnp.sum(jnp.exp(log) * p**2), x, y)
        return loss(y, batch) + 0.5 * sum(jax.tree.leaves(penalties))

    return BilevelProblem(outer, inner)
