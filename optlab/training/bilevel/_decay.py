"""A weight decay for every parameter, or every layer, of any classifier."""

import jax
import jax.numpy as jnp
import optax

from optlab.problems import parameter_decay
from optlab.training.bilevel._config import BilevelConfig
from optlab.training.bilevel._model import classification, stateless_model
from optlab.training.bilevel._task import BilevelTask

__all__ = ["decay_task"]


def decay_task(
    config: BilevelConfig,
    *,
    train: int | None = None,
    validation: int | None = None,
    start: float = -6.0,
    share: bool = False,
) -> BilevelTask:
    """Makes :func:`optlab.problems.parameter_decay` on a data set, by the seed of the config.

    Args:
        config: of the run.
        train: examples to fit; by default half of those to learn from.
        validation: other examples, to choose by; by default as many as are left.
        start: of the logarithms of the decays.
        share: whether all of an array has one decay.

    Returns:
        The task.
    """
    data, inner_data, outer_data = classification(config, train, validation)
    init, apply = stateless_model(config.model, data)

    def loss(params, batch):
        inputs, labels = batch
        logits = apply(params, inputs)
        return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels))

    def begin(key):
        params = init(key)
        x = jax.tree.map(lambda p: jnp.full(() if share else p.shape, start, p.dtype), params)
        return x, params

    def evaluate(state, test):
        logs = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(state.x)])
        return {
            "loss": loss(state.y, test),
            "accuracy": jnp.mean(apply(state.y, test[0]).argmax(axis=-1) == test[1]),
            "log_decay_mean": logs.mean(),
            "log_decay_deviation": logs.std(),
        }

    return BilevelTask(
        problem=parameter_decay(loss),
        init=begin,
        outer_data=outer_data,
        inner_data=inner_data,
        test=tuple(data.test),
        evaluate=evaluate,
        finding="classifies {accuracy:.2%} of the held-out {data} correctly",
        drawn=("test_loss", "test_accuracy"),
    )
