"""Hyper-representation: all layers but the last at the outer level, that at the inner one."""

import jax.numpy as jnp

from optlab.problems import hyper_representation
from optlab.training._config import ConfigError
from optlab.training.bilevel._config import BilevelConfig
from optlab.training.bilevel._model import classification, stateless_model
from optlab.training.bilevel._task import BilevelTask

__all__ = ["representation_task"]


def representation_task(
    config: BilevelConfig,
    *,
    train: int | None = None,
    validation: int | None = None,
    penalty: float = 1e-2,
) -> BilevelTask:
    """Makes :func:`optlab.problems.hyper_representation` of a classifier, of images or texts.

    Args:
        config: of the run; the layers of its model but the ``head`` are x.
        train: examples to fit the head on; by default half of those to learn from.
        validation: other examples, to choose the features by; by default as many as are left.
        penalty: of the head's parameters.

    Returns:
        The task.
    """
    data, inner_data, outer_data = classification(config, train, validation)
    init, apply = stateless_model(config.model, data)

    def begin(key):
        params = dict(init(key))
        head = params.pop("head")
        if not params:
            raise ConfigError(f"model.name {config.model.name!r} has no layer but its head.")
        return params, head

    def outputs(x, y, inputs):
        return apply({**x, "head": y}, inputs)

    problem = hyper_representation(outputs, penalty=penalty)

    def evaluate(state, test):
        logits = outputs(state.x, state.y, test[0])
        return {
            "loss": problem.outer(state.x, state.y, test),
            "accuracy": jnp.mean(logits.argmax(axis=-1) == test[1]),
        }

    return BilevelTask(
        problem=problem,
        init=begin,
        outer_data=outer_data,
        inner_data=inner_data,
        test=tuple(data.test),
        evaluate=evaluate,
        finding="classifies {accuracy:.2%} of the held-out {data} correctly",
        drawn=("test_loss", "test_accuracy"),
    )
