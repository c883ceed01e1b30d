"""Hyper-representation: features on which a simple model does well."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from optlab._checks import check_range
from optlab.base import BilevelProblem, Params

__all__ = ["hyper_representation"]


def hyper_representation(
    apply: Callable[[Params, Params, jax.Array], jax.Array], *, penalty: float = 1e-2
) -> BilevelProblem:
    r"""Learns the layers x of a model such that its last one, y, does well on held-out data.

    .. math::
        \min_x \ell(x, y^*(x); \text{held-out}), \qquad
        y^*(x) = \arg\min_y \ell(x, y; \text{training}) + \tfrac{\rho}{2} \|y\|^2

    with the cross-entropy :math:`\ell`. Where y is a linear layer the inner problem is strongly
    convex. It serves whole data sets and, task by task, few-shot learning: see
    :func:`optlab.bilevel.episodic`. A batch, of either level, is ``(inputs, labels)``.

    Args:
        apply: a model, ``(x, y, inputs) -> logits`` of shape ``[rows, classes]``.
        penalty: :math:`\rho`, positive.

    Returns:
        The problem.

    Raises:
        ValueError: if ``penalty`` is not positive.

    >>> problem = hyper_representation(lambda x, y, inputs: jnp.tanh(inputs @ x) @ y)
    >>> batch = jnp.ones((4, 3)), jnp.zeros(4, jnp.int32)
    >>> round(float(problem.outer(jnp.ones((3, 5)), jnp.zeros((5, 2)), batch)), 4)
    0.6931

    References:
        L. Franceschi, P. Frasconi, S. Salzo, R. Grazzi, M. Pontil, "Bilevel Programming for
        Hyperparameter Optimization and Meta-Learning", ICML 2018, arXiv:1806.04910
    """
    check_range("penalty", penalty, 0.0, float("inf"), closed="()")

    def loss(x, y, batch):
        inputs, labels = batch
        logits = apply(x, y, inputs)
        return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels))

    def inner(x, y, batch):
        return loss(x, y, batch) + 0.5 * penalty * optax.tree.norm(y, squared=True)

    return BilevelProblem(loss, inner)
