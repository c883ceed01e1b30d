"""Each model at a tiny size, with a batch that suits it."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

from optlab.base import Params, PyTree
from optlab.training.models import (
    CNN,
    GPT,
    LSTM,
    MLP,
    FewShotCNN,
    Functional,
    ResNet,
    ViT,
    functional,
)

IMAGES, TOKENS = (8, 8, 2), (6,)
CLASSES = 5


class Case(NamedTuple):
    """A model, started, and examples."""

    model: Functional
    params: Params
    rest: PyTree
    inputs: np.ndarray
    labels: np.ndarray
    init: Callable  # the model's, compiled
    apply: Callable

    def loss(self, params, rest, **kwargs):
        """The mean cross-entropy on the examples, and the new rest."""
        logits, rest = self.model.apply(params, rest, self.inputs, **kwargs)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, self.labels)
        return losses.mean(), rest


MAKERS = {
    "mlp": functools.partial(MLP, IMAGES, (16,), CLASSES),
    "cnn": functools.partial(CNN, IMAGES, (8, 8), CLASSES),
    "few_shot_cnn": functools.partial(FewShotCNN, IMAGES, (8, 8), CLASSES),
    "resnet": functools.partial(ResNet, IMAGES, CLASSES, width=4, depth=1),
    "vit": functools.partial(ViT, IMAGES, CLASSES, width=8, depth=2, heads=2),
    "lstm": functools.partial(LSTM, TOKENS, CLASSES, width=8, depth=2),
    "lstm_classifier": functools.partial(LSTM, TOKENS, CLASSES, vocabulary=9, width=8),
    "gpt": functools.partial(GPT, TOKENS, CLASSES, width=8, depth=2, heads=2),
}


def start(make: functools.partial[nnx.Module]) -> Case:
    """Starts a model at a fixed key, with four examples of the shape it is made for."""
    shape = make.args[0]
    model = functional(lambda key: make(rngs=nnx.Rngs(key)))
    init = jax.jit(model.init)
    params, rest = init(jax.random.key(7))
    rng = np.random.default_rng(3)
    labels = np.arange(4, dtype=np.int32)
    if shape == TOKENS:
        inputs = rng.integers(CLASSES, size=(4, *shape)).astype(np.int32)
        inputs[:, 0] = labels  # tells the sequences apart: each can be learnt by heart
        if "vocabulary" not in make.keywords:
            labels = np.roll(inputs, -1, axis=1)
    else:
        inputs = rng.normal(size=(4, *shape)).astype(np.float32)
    apply = jax.jit(model.apply, static_argnames="train")
    return Case(model, params, rest, inputs, labels, init, apply)


@functools.cache
def case(name: str) -> Case:
    """Starts the model of a name, once."""
    return start(MAKERS[name])


def in_float64(tree: PyTree) -> PyTree:
    """A tree for the numpy reference."""
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)
