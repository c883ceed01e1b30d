"""Compositions that configs name as ``experiments.optimizers:<function>``."""

from typing import Any

import optax

import optlab
from optlab.training import make_optimizer
from optlab.transforms.adaptive import percentile_clip
from optlab.transforms.learning_rate_free import polynomial_averaging
from optlab.transforms.matrix import hidden_matrix_labels


def scaled(rate: optax.ScalarOrSchedule, factor: float) -> optax.ScalarOrSchedule:
    """Multiplies a learning rate."""
    return (lambda count: factor * rate(count)) if callable(rate) else factor * rate


def on_matrices(
    learning_rate: optax.ScalarOrSchedule, base: str, factor: float = 1.0, **arguments: Any
) -> optax.GradientTransformationExtraArgs:
    """An optimizer for hidden matrices, at ``factor`` times the rate that AdamW has elsewhere."""
    matrix = make_optimizer(base, scaled(learning_rate, factor), **arguments)
    others = optax.adamw(learning_rate, weight_decay=0.0)
    return optax.partition({"matrix": matrix, "other": others}, hidden_matrix_labels)


def clipped(
    learning_rate: optax.ScalarOrSchedule, base: str, percentile: float = 5.0, **arguments: Any
) -> optax.GradientTransformation:
    """An optimizer of gradients that are clipped at a percentile of their history."""
    return optax.chain(
        percentile_clip(percentile), make_optimizer(base, learning_rate, **arguments)
    )


def averaged(
    learning_rate: optax.ScalarOrSchedule, base: str, gamma: float = 8.0, **arguments: Any
) -> optax.GradientTransformation:
    """An optimizer that keeps an average of its iterates."""
    tx = make_optimizer(base, learning_rate, **arguments)
    return optax.chain(tx, polynomial_averaging(gamma=gamma))


def tuned_by_mechanic(
    learning_rate: optax.ScalarOrSchedule, base: str, **arguments: Any
) -> optax.GradientTransformation:
    """Mechanic around an optimizer of rate one."""
    return optlab.mechanic(make_optimizer(base, 1.0, **arguments), learning_rate)
