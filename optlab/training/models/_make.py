"""Models by name."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence

from flax import nnx

from optlab.training._config import ConfigError, ModelConfig, nearest
from optlab.training.models._cnn import CNN
from optlab.training.models._few_shot_cnn import FewShotCNN
from optlab.training.models._gpt import GPT
from optlab.training.models._lstm import LSTM
from optlab.training.models._mlp import MLP
from optlab.training.models._resnet import ResNet
from optlab.training.models._vit import ViT

__all__ = ["make_model"]

_MODELS: dict[str, Callable[..., nnx.Module]] = {
    "cnn": CNN,
    "few_shot_cnn": FewShotCNN,
    "gpt": GPT,
    "lstm": LSTM,
    "mlp": MLP,
    "resnet": ResNet,
    "vit": ViT,
}
_AXES = {  # of one example; an mlp takes any
    "cnn": "height, width, channels",
    "few_shot_cnn": "height, width, channels",
    "gpt": "length",
    "lstm": "length",
    "resnet": "height, width, channels",
    "vit": "height, width, channels",
}


def make_model(
    config: ModelConfig,
    shape: Sequence[int],
    classes: int,
    *,
    vocabulary: int | None = None,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """Builds a model by name.

    Args:
        config: its name and hyperparameters; a field that is None is left to the model.
        shape: of one example, ``(height, width, channels)`` or ``(length,)``.
        classes: of the output; of a language model the size of the vocabulary.
        vocabulary: the same of sequences that are to be classified, otherwise None.
        rngs: of the initial parameters.

    Returns:
        A module from examples to logits, called as ``model(inputs, train=False, rngs=None)``.

    Raises:
        ConfigError: if the name is unknown, a field is out of range or none that the model takes,
            or the examples do not suit it.

    >>> import numpy as np
    >>> model = make_model(ModelConfig(widths=(4,)), (8, 8, 1), 10, rngs=nnx.Rngs(0))
    >>> model(np.ones((2, 8, 8, 1), np.float32)).shape
    (2, 10)
    """
    if config.name not in _MODELS:
        raise ConfigError(f"model.name {config.name!r} is unknown; {nearest(config.name, _MODELS)}")
    model = _MODELS[config.name]
    axes = _AXES.get(config.name)
    if axes is not None and len(shape) != len(axes.split(", ")):
        raise ConfigError(
            f"model.name {config.name!r} wants examples of shape ({axes}), got {tuple(shape)}."
        )
    if not 0.0 <= (config.dropout or 0.0) < 1.0:
        raise ConfigError(f"model.dropout must lie in [0, 1), got {config.dropout}.")
    takes = inspect.signature(model.__init__).parameters
    arguments = {"shape": shape, "classes": classes, "rngs": rngs}
    if vocabulary is not None:
        if "vocabulary" not in takes:
            raise ConfigError(f"model.name {config.name!r} cannot classify sequences of tokens.")
        arguments["vocabulary"] = vocabulary
    for field in dataclasses.fields(config)[1:]:  # all but the name
        value = getattr(config, field.name)
        if field.name in takes and value is not None:
            arguments[field.name] = value
        elif field.name not in takes and value != field.default:
            fields = ", ".join(f.name for f in dataclasses.fields(config) if f.name in takes)
            raise ConfigError(
                f"model.{field.name} is no field of {config.name!r}, which has {fields}."
            )
    return model(**arguments)
