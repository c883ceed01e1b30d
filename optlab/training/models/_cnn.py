"""A plain convolutional network."""

from collections.abc import Sequence

import jax
from flax import nnx

from optlab.training.models._layers import convolutions

__all__ = ["CNN"]


class CNN(nnx.Module):
    """Convolutions of 3x3 with ReLU, a mean over the image, a dense layer.

    Each convolution but the first halves the image. Weights start as LeCun's normal, biases at
    zero.

    Args:
        shape: of one image, ``(height, width, channels)``.
        widths: channels of each convolution.
        classes: of the output.
        layers: what its convolutions are, ``plain`` or ``tract``; see
            :func:`optlab.training.models.convolutions`.
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
        first, later = convolutions(layers)
        sizes = (shape[-1], *widths)
        self.convs = nnx.List(
            [
                (later if i else first)(n, m, (3, 3), strides=2 if i else 1, rngs=rngs)
                for i, (n, m) in enumerate(zip(sizes, sizes[1:], strict=False))
            ]
        )
        self.head = nnx.Linear(sizes[-1], classes, rngs=rngs)

    def __call__(
        self, images: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Maps images ``[batch, height, width, channels]`` to logits ``[batch, classes]``."""
        del train, rngs
        x = images
        for conv in self.convs:
            x = nnx.relu(conv(x))
        return self.head(x.mean(axis=(1, 2)))
