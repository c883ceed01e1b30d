"""Few-shot learning: a bilevel problem of one task, whose inner variable starts anew each time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from optlab._checks import check_range
from optlab.base import BilevelProblem, Params

__all__ = ["few_shot"]


def few_shot(
    apply: Callable[[Params, jax.Array], jax.Array], *, proximity: float = 0.0
) -> BilevelProblem:
    r"""Learns parameters x from which a task is learnt in a few steps.

    .. math::
        \min_x \ell(x + y^*(x); \text{query}), \qquad
        y^*(x) = \arg\min_y \ell(x + y; \text{support}) + \tfrac{\lambda}{2} \|y\|^2

    with the cross-entropy :math:`\ell`. y is how far a task moves away from x, and starts at zero.
    Some steps of gradient descent on it, differentiated, are MAML, with :math:`\lambda = 0`; the
    implicit derivative at its end is iMAML, :math:`(I + \nabla^2 \ell / \lambda)^{-1}` times the
    gradient of the query. A batch, of either level, is ``(inputs, labels)`` of one task.

    Args:
        apply: a model, ``(params, inputs) -> logits`` of shape ``[rows, classes]``.
        proximity: :math:`\lambda`, zero or more.

    Returns:
        The problem, for :func:`optlab.bilevel.episodic`; x and y are like the parameters.

    Raises:
        ValueError: if ``proximity`` is negative.

    >>> problem = few_shot(lambda params, inputs: inputs @ params, proximity=2.0)
    >>> batch = jnp.zeros((4, 3)), jnp.zeros(4, jnp.int32)
    >>> round(float(problem.inner(jnp.ones((3, 2)), jnp.ones((3, 2)), batch)), 3)  # log(2) + 6
    6.693

    References:
        C. Finn, P. Abbeel, S. Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
        Networks", ICML 2017, arXiv:1703.03400; A. Rajeswaran, C. Finn, S. Kakade, S. Levine,
        "Meta-Learning with Implicit Gradients", NeurIPS 2019, arXiv:1909.04630
    """
    check_range("proximity", proximity, 0.0, float("inf"))

    def loss(params, batch):
        inputs, labels = batch
        logits = apply(params, inputs)
        return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels))

    def outer(x, y, batch):
        return loss(optax.tree.add(x, y), batch)

    def inner(x, y, batch):
        value = loss(optax.tree.add(x, y), batch)
        return value + 0.5 * proximity * optax.tree.norm(y, squared=True) if proximity else value

    return BilevelProblem(outer, inner)
