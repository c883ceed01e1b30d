"""Data hyper-cleaning: which training labels are right, learnt from a few that surely are."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._checks import check_count, check_range
from optlab.base import BilevelProblem, Params, Scalar

__all__ = ["CleaningScores", "cleaning_scores", "corrupt_labels", "hyper_cleaning"]


class CleaningScores(NamedTuple):
    """How well the examples with right labels were found."""

    precision: Scalar  # of those found, the part whose labels are right; NaN where none was found
    recall: Scalar  # of those whose labels are right, the part found
    f1: Scalar  # harmonic mean of the two; zero where none was found


def hyper_cleaning(
    apply: Callable[[Params, jax.Array], jax.Array], *, penalty: float = 1e-3
) -> BilevelProblem:
    r"""Learns a weight for every training example, by what the model then does on clean ones.

    .. math::
        \min_x \tfrac1m \sum_{j} \ell(y^*(x); \tilde a_j, \tilde b_j), \qquad
        y^*(x) = \arg\min_y \tfrac1n \sum_i \sigma(x_i)\, \ell(y; a_i, b_i)
            + \tfrac{\rho}{2} \|y\|^2

    with the logistic function :math:`\sigma` and the cross-entropy :math:`\ell`. An outer batch is
    ``(inputs, labels)`` of clean examples; an inner one is ``(inputs, labels, index)``, whose
    indices say which elements of x, of shape ``[n]``, are theirs.

    Args:
        apply: a model, ``(params, inputs) -> logits`` of shape ``[rows, classes]``.
        penalty: :math:`\rho`; positive for a strongly convex inner problem with a linear model.

    Returns:
        The problem; y is the model's parameters.

    Raises:
        ValueError: if ``penalty`` is negative.

    >>> problem = hyper_cleaning(lambda params, inputs: inputs @ params)
    >>> batch = jnp.ones((4, 3)), jnp.zeros(4, jnp.int32), jnp.arange(4)
    >>> round(float(problem.inner(jnp.zeros(4), jnp.zeros((3, 2)), batch)), 4)  # log(2) / 2
    0.3466

    References:
        L. Franceschi, M. Donini, P. Frasconi, M. Pontil, "Forward and Reverse Gradient-Based
        Hyperparameter Optimization", ICML 2017, arXiv:1703.01785

    Differs from the paper: weights are logistic functions of x, as in the later literature, not
    elements of an l1 ball; the inner objective has a penalty.
    """
    check_range("penalty", penalty, 0.0, float("inf"))

    def losses(y, inputs, labels):
        return optax.losses.softmax_cross_entropy_with_integer_labels(apply(y, inputs), labels)

    def outer(x, y, batch):
        del x
        return jnp.mean(losses(y, *batch))

    def inner(x, y, batch):
        inputs, labels, index = batch
        weighted = jax.nn.sigmoid(x[index]) * losses(y, inputs, labels)
        return jnp.mean(weighted) + 0.5 * penalty * optax.tree.norm(y, squared=True)

    return BilevelProblem(outer, inner)


def corrupt_labels(
    key: jax.Array, labels: jax.Array, fraction: float, classes: int
) -> tuple[jax.Array, jax.Array]:
    """Gives a part of the labels another class each, uniformly among those that are wrong.

    Args:
        key: decides which and how.
        labels: shape ``[n]``, of an integer dtype, in ``[0, classes)``.
        fraction: of the labels, in [0, 1]; ``round(fraction * n)`` of them become wrong.
        classes: at least 2.

    Returns:
        The labels, and which of them are as they were: shape ``[n]``, dtype bool.

    Raises:
        ValueError: if ``fraction`` or ``classes`` is out of range.

    >>> labels, clean = corrupt_labels(jax.random.key(0), jnp.zeros(10, jnp.int32), 0.4, 3)
    >>> int(clean.sum()), bool(((labels == 0) == clean).all())
    (6, True)
    """
    check_range("fraction", fraction, 0.0, 1.0, closed="[]")
    check_count("classes", classes, 2)
    count = labels.shape[0]
    order_key, shift_key = jax.random.split(key)
    clean = jax.random.permutation(order_key, count) >= round(fraction * count)
    shifts = jax.random.randint(shift_key, (count,), 1, classes, dtype=labels.dtype)
    return jnp.where(clean, labels, (labels + shifts) % classes), clean


def cleaning_scores(x: jax.Array, clean: jax.Array) -> CleaningScores:
    """Scores the weights of :func:`hyper_cleaning`; those above one half say "this is clean".

    Args:
        x: shape ``[n]``, before the logistic function.
        clean: which examples have right labels, shape ``[n]``.

    Returns:
        Precision, recall and F1 of the clean class.

    >>> x, clean = jnp.array([1.0, 2.0, -1.0, 3.0]), jnp.array([True, True, True, False])
    >>> [round(float(score), 3) for score in cleaning_scores(x, clean)]
    [0.667, 0.667, 0.667]
    """
    found = x > 0
    hits = jnp.sum(found & clean)
    precision, recall = hits / jnp.sum(found), hits / jnp.sum(clean)
    either = jnp.sum(found) + jnp.sum(clean)
    return CleaningScores(precision, recall, 2 * hits / jnp.maximum(either, 1))
