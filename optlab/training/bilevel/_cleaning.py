"""Data hyper-cleaning of any image set."""

import jax
import jax.numpy as jnp
import numpy as np

from optlab._checks import check_range
from optlab.problems import cleaning_scores, corrupt_labels, hyper_cleaning
from optlab.training._config import ConfigError
from optlab.training.bilevel._config import BilevelConfig
from optlab.training.bilevel._model import classification, stateless_model
from optlab.training.bilevel._task import BilevelTask

__all__ = ["cleaning_task"]


def cleaning_task(
    config: BilevelConfig,
    *,
    train: int | None = None,
    validation: int | None = None,
    corrupted: float = 0.4,
    penalty: float = 1e-3,
    start: float = 0.0,
    learn_from: str = "train",
) -> BilevelTask:
    """Makes :func:`optlab.problems.hyper_cleaning` on a data set, by the seed of the config.

    Args:
        config: of the run.
        train: examples whose labels may be wrong; by default half of those to learn from.
        validation: other examples with right labels; by default as many as are left.
        corrupted: the part of the labels that is wrong.
        penalty: of the parameters.
        start: of x; a large one gives every example a weight of one.
        learn_from: what the inner problem has: ``train``; or, for comparison with a fixed x,
            ``clean``, those of them with right labels, ``validation``, or ``right``, these two
            together: the most that cleaning could find.

    Returns:
        The task.
    """
    check_range("corrupted", corrupted, 0.0, 1.0, closed="[]")
    data, (inputs, labels), held_out = classification(config, train, validation)
    init, apply = stateless_model(config.model, data)
    key = jax.random.key(config.seed)
    wrong, clean = map(
        np.asarray, corrupt_labels(key, jnp.asarray(labels), corrupted, data.classes)
    )
    train = len(labels)
    index = np.arange(train, dtype=np.int32)
    own = inputs, wrong, index
    clean_ones = tuple(array[clean] for array in own)
    known = *held_out, np.resize(index, len(held_out[1]))
    learnt = {
        "train": own,
        "clean": clean_ones,
        "validation": known,
        "right": tuple(map(np.concatenate, zip(clean_ones, known, strict=True))),
    }
    if learn_from not in learnt:
        raise ConfigError(
            f"problem.arguments.learn_from must be {' or '.join(learnt)}, got {learn_from!r}."
        )
    problem = hyper_cleaning(apply, penalty=penalty)

    def evaluate(state, test):
        batch, clean = test
        logits = apply(state.y, batch[0])
        scores = cleaning_scores(state.x, clean)
        return {
            "loss": problem.outer(state.x, state.y, batch),
            "accuracy": jnp.mean(logits.argmax(axis=-1) == batch[1]),
            **scores._asdict(),
        }

    return BilevelTask(
        problem=problem,
        init=lambda key: (jnp.full((train,), start), init(key)),
        outer_data=held_out,
        inner_data=learnt[learn_from],
        test=(tuple(data.test), clean),
        evaluate=evaluate,
        finding="finds the right labels of {data} with an F1 of {f1:.3f}, and classifies "
        "{accuracy:.2%} of the test images correctly",
        drawn=("test_accuracy", "test_f1"),
    )
