"""A convolutional network that tunes its own dropout and weight decay."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from optlab._checks import check_range
from optlab.base import BilevelProblem
from optlab.training._config import ConfigError
from optlab.training.bilevel._config import BilevelConfig
from optlab.training.bilevel._model import check_drawn, classification, shrunk
from optlab.training.bilevel._task import BilevelTask
from optlab.training.data import Examples, scale_pixels
from optlab.training.models import HyperConv, HyperDense, hyper_dropout

__all__ = ["self_tuning_task"]

PLACES = ("input", "features", "hidden")  # where the network drops numbers


class _Network(nnx.Module):
    """Convolutions that halve the image, a hidden layer and logits, all answering x."""

    def __init__(self, shape, widths, hidden, classes, *, magnitude_invariant, rngs):
        *sizes, channels = shape
        options: dict[str, Any] = {"magnitude_invariant": magnitude_invariant, "rngs": rngs}
        hypers, convs = len(PLACES) + 1, []
        for width in widths:
            convs.append(HyperConv(channels, width, (3, 3), hypers, strides=2, **options))
            channels, sizes = width, [(n + 1) // 2 for n in sizes]
        self.convs = nnx.List(convs)
        self.hidden = HyperDense(channels * sizes[0] * sizes[1], hidden, hypers, **options)
        self.head = HyperDense(hidden, classes, hypers, **options)

    def __call__(self, images, hypers, drop):
        values = drop(0, images)
        for conv in self.convs:
            values = nnx.relu(conv(values, hypers))
        values = drop(1, values.reshape(len(values), -1))
        values = drop(2, nnx.relu(self.hidden(values, hypers)))
        return self.head(values, hypers)

    def squared_norm(self, hypers):
        return sum(layer.squared_norm(hypers) for layer in (*self.convs, self.hidden, self.head))


def self_tuning_task(
    config: BilevelConfig,
    *,
    train: int | None = None,
    validation: int | None = None,
    widths: Sequence[int] = (8, 16),
    hidden: int = 32,
    shrink: int = 2,
    dropout: float = 0.05,
    decay: float = 1e-4,
    answers: bool = True,
    magnitude_invariant: bool = False,
) -> BilevelTask:
    """Makes the tuning of a small network on images, for :func:`optlab.bilevel.stn`.

    x holds the logits of three rates of dropout, on the input, behind the convolutions and behind
    the hidden layer, and the logarithm of a weight decay; y the network, whose layers answer x. The
    inner objective is the training loss with dropout and half of decay times the weights' squared
    norm, the outer one the loss on the validation part.

    Args:
        config: of the run; its ``model`` is not used. A step takes ``inner_batches_per_step``
            batches for y, or one without a further axis if that is zero.
        train: examples to fit; by default half of those to learn from.
        validation: other examples, to tune by; by default as many as are left.
        widths: channels of the convolutions.
        hidden: features of the hidden layer.
        shrink: the factor by which images are made smaller, by the means of squares.
        dropout: rate at the start, at all three places.
        decay: weight decay at the start.
        answers: whether the layers answer x; if not, they are the plain layers.
        magnitude_invariant: see :class:`optlab.training.models.HyperDense`.

    Returns:
        The task.
    """
    check_range("dropout", dropout, 0.0, 1.0, closed="()")
    check_range("decay", decay, 0.0, float("inf"), closed="()")
    check_drawn(config, "outer", "inner")
    data, inner_data, outer_data = classification(config, train, validation)
    if len(data.shape) != 3:
        raise ConfigError(f"data.name {config.data.name!r} has no images for convolutions.")
    inner_data, outer_data, test = (
        shrunk(Examples(*part), shrink) for part in (inner_data, outer_data, data.test)
    )
    start = {
        "logits": jnp.full(len(PLACES), jnp.log(dropout / (1.0 - dropout))),
        "log_decay": jnp.log(jnp.array(decay)),
    }

    def make(key):
        return _Network(
            inner_data.inputs.shape[1:],
            widths,
            hidden,
            data.classes,
            magnitude_invariant=magnitude_invariant,
            rngs=nnx.Rngs(key),
        )

    graph = nnx.graphdef(nnx.eval_shape(make, jax.random.key(0)))

    def hypers(x):
        """What the layers answer: how far x is from its start."""
        change = jax.tree.map(jnp.subtract, x, start)
        return jnp.append(change["logits"], change["log_decay"]) if answers else None

    def loss(network, x, batch, drop):
        logits = network(scale_pixels(batch[0]), hypers(x), drop)
        return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch[1]))

    def outer(x, y, batch):
        return loss(nnx.merge(graph, y), x, batch, lambda place, values: values)

    def inner(x, y, batch):
        network, key = nnx.merge(graph, y), jax.random.wrap_key_data(batch[2][0])
        rates = jax.nn.sigmoid(x["logits"])

        def drop(place, values):
            return hyper_dropout(values, rates[place], jax.random.fold_in(key, place))

        penalty = 0.5 * jnp.exp(x["log_decay"]) * network.squared_norm(hypers(x))
        return loss(network, x, batch, drop) + penalty

    def draw(key, outer_rows, inner_rows):
        """Rows of both levels; to those of the inner one belong keys of the dropout."""
        keys = jax.random.split(key, 3)
        several = (config.inner_batches_per_step,) if config.inner_batches_per_step else ()

        def some(key, rows, shape):
            return jax.tree.map(lambda a: a[jax.random.randint(key, shape, 0, len(a))], tuple(rows))

        shape = (*several, config.inner_batch_size)
        noise = jax.random.bits(keys[2], (*shape, *jax.random.key_data(key).shape), jnp.uint32)
        inputs, labels = some(keys[1], inner_rows, shape)
        return some(keys[0], outer_rows, (config.outer_batch_size,)), (inputs, labels, noise)

    def evaluate(state, test):
        held_out, validated = test
        network = nnx.merge(graph, state.y)
        logits = network(scale_pixels(held_out[0]), hypers(state.x), lambda _, values: values)
        rates = jax.nn.sigmoid(state.x["logits"])
        return {
            "validation_loss": outer(state.x, state.y, validated),
            "accuracy": jnp.mean(logits.argmax(axis=-1) == held_out[1]),
            **{f"dropout_{place}": rate for place, rate in zip(PLACES, rates, strict=True)},
            "decay": jnp.exp(state.x["log_decay"]),
        }

    return BilevelTask(
        problem=BilevelProblem(outer, inner),
        init=lambda key: (start, nnx.to_pure_dict(nnx.state(make(key), nnx.Param))),
        outer_data=outer_data,
        inner_data=inner_data,
        test=(tuple(test), tuple(outer_data)),
        evaluate=evaluate,
        draw=draw,
        finding="has a validation loss of {validation_loss:.4f} with dropout of {dropout_input:.2f}"
        " on the input, {dropout_features:.2f} and {dropout_hidden:.2f} behind the layers, and a"
        " decay of {decay:.1e}",
        drawn=(
            "test_validation_loss",
            *(f"test_dropout_{place}" for place in PLACES),
            "test_decay",
        ),
    )
