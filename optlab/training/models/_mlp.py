"""A multi-layer perceptron."""

import math
from collections.abc import Sequence

import jax
from flax import nnx

from optlab.training.models._layers import dense_layers

__all__ = ["MLP"]


class MLP(nnx.Module):
    """Dense layers with ReLU between them, on flattened examples.

    Weights start as LeCun's normal, biases at zero.

    Args:
        shape: of one example, such as ``(height, width, channels)``.
        widths: of the hidden layers.
        classes: of the output.
        layers: what its layers are, ``plain``, ``tract`` or ``spectral``; see
            :func:`optlab.training.models.dense_layers`.
        rngs: of the initial parameters.
    """

    def __init__(
        self,
        shape: Sequence[int],
        widths: Sequence[int],
        classes: int,
        *,
        layers: str = "plain",
        rngs: nnx.Rngs,
    ):
        first, later = dense_layers(layers)
        sizes = (math.prod(shape), *widths, classes)
        *hidden, self.head = (
            (later if i else first)(n, m, rngs=rngs)
            for i, (n, m) in enumerate(zip(sizes, sizes[1:], strict=False))
        )
        self.hidden = nnx.List(hidden)

    def __call__(
        self, images: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Maps examples ``[batch, *shape]`` to logits ``[batch, classes]``."""
        del train, rngs
        x = images.reshape(len(images), -1)
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.head(x)
