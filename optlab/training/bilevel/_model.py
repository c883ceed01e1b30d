"""What problems with a model have in common: its functions, and the two parts of its data."""

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from optlab.base import Params
from optlab.training._config import ConfigError, ModelConfig
from optlab.training.bilevel._config import BilevelConfig
from optlab.training.data import Dataset, Examples, load_data, scale_pixels
from optlab.training.models import functional, make_model

__all__ = ["check_drawn", "classification", "shrunk", "split", "stateless_model"]


def classification(
    config: BilevelConfig, train: int | None, validation: int | None
) -> tuple[Dataset, tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Gives a data set of the config, and the inner and outer part of its examples to learn from.

    Raises:
        ConfigError: if its examples have no classes, or are too few.
    """
    data = load_data(config.data)
    if data.task != "classification":
        raise ConfigError(f"data.name {config.data.name!r} has no classes to tell apart.")
    inner, outer = split(config.seed, len(data.train.targets), train, validation)
    return data, *(tuple(array[rows] for array in data.train) for rows in (inner, outer))


def split(
    seed: int, examples: int, train: int | None, validation: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Gives the rows of two parts of some examples, in random order.

    Args:
        seed: of the run.
        examples: in all.
        train: in the inner part; None is half of them.
        validation: in the outer part; None is what is left.

    Raises:
        ConfigError: if there are too few.
    """
    train = examples // 2 if train is None else train
    validation = examples - train if validation is None else validation
    if not 0 < train < train + validation <= examples:
        raise ConfigError(
            f"problem.arguments train and validation must be positive and sum to {examples} at "
            f"most, got {train} and {validation}."
        )
    rows = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(examples)
    return rows[:train], rows[train : train + validation]


def stateless_model(
    config: ModelConfig, data: Dataset, classes: int | None = None
) -> tuple[Callable[[jax.Array], Params], Callable[[Params, jax.Array], jax.Array]]:
    """Gives ``init(key) -> params`` and ``apply(params, inputs) -> logits``.

    Args:
        config: of the model.
        data: whose inputs it takes.
        classes: of its output; those of the data by default.

    Raises:
        ConfigError: if the model keeps anything beside its parameters: a bilevel problem has no
            place for running statistics.
    """
    vocabulary = len(data.vocabulary) or None
    outputs = data.classes if classes is None else classes

    def make(key):
        return make_model(config, data.shape, outputs, vocabulary=vocabulary, rngs=nnx.Rngs(key))

    model = functional(make)
    _, rest = jax.eval_shape(model.init, jax.random.key(0))
    if kept := jax.tree.leaves(rest):
        raise ConfigError(
            f"model.name {config.name!r} keeps {len(kept)} arrays beside its parameters, for which "
            "a bilevel problem has no place: take a model without batch normalisation."
        )

    def apply(params, inputs):
        return model.apply(params, rest, scale_pixels(inputs))[0]

    return lambda key: model.init(key)[0], apply


def check_drawn(config: BilevelConfig, *levels: str) -> None:
    """Raises ConfigError where a level has no batch size, though the problem draws its batches."""
    for level in levels:
        if getattr(config, f"{level}_batch_size") == 0:
            raise ConfigError(
                f"config.{level}_batch_size must be positive: problem.name {config.problem.name!r} "
                "draws its own batches."
            )


def shrunk(examples: Examples, factor: int) -> Examples:
    """Images made smaller; rows and columns that fill no square are cut off.

    Raises:
        ConfigError: if a square is larger than an image.
    """
    count, height, width, channels = examples.inputs.shape
    if not 1 <= factor <= min(height, width):
        raise ConfigError(
            f"problem.arguments.shrink must lie in [1, {min(height, width)}], got {factor}."
        )
    rows, columns = height // factor, width // factor
    inputs = examples.inputs[:, : rows * factor, : columns * factor]
    squares = inputs.reshape(count, rows, factor, columns, factor, channels)
    means = squares.mean(axis=(2, 4), dtype=np.float32)
    return examples._replace(inputs=means.astype(examples.inputs.dtype))
