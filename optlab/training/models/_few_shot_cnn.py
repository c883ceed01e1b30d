"""The convolutional network of few-shot learning, whose convolutions are products of matrices."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

__all__ = ["FewShotCNN"]

_HE = nnx.initializers.he_normal()


class FewShotCNN(nnx.Module):
    """Blocks of a 3x3 convolution that halves the image, normalisation and ReLU; a dense layer.

    The normalisation takes mean and variance of a channel from the examples at hand, in evaluation
    too, and keeps nothing: as in the papers on few-shot learning, the logits of an example depend
    on those beside it.

    A convolution is a product of patches with the kernel. Under :func:`jax.vmap` over tasks, each
    with a kernel of its own, that is a batch of products, while XLA makes a grouped convolution of
    a convolution, for which it has no fast code on a CPU.

    Args:
        shape: of one image, ``(height, width, channels)``.
        widths: channels of each convolution; the papers have four of 64.
        classes: of the output.
        rngs: of the initial parameters: He's normal of the fan-in, scales at one, biases at zero.

    References:
        C. Finn, P. Abbeel, S. Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
        Networks", ICML 2017, arXiv:1703.03400, whose Omniglot network this is with widths of 64
    """

    def __init__(
        self, shape: Sequence[int], widths: Sequence[int], classes: int, *, rngs: nnx.Rngs
    ):
        *sizes, channels = shape
        blocks = []
        for width in widths:
            blocks.append(_Block(channels, width, rngs=rngs))
            channels, sizes = width, [(n + 1) // 2 for n in sizes]
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(channels * sizes[0] * sizes[1], classes, rngs=rngs)

    def __call__(
        self, images: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Maps images ``[batch, height, width, channels]`` to logits ``[batch, classes]``."""
        del train, rngs
        x = images
        for block in self.blocks:
            x = block(x)
        return self.head(x.reshape(len(x), -1))


class _Block(nnx.Module):
    """A convolution of stride 2 without bias, which the normalisation would take away, and ReLU."""

    def __init__(self, n: int, m: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(_HE(rngs.params(), (3, 3, n, m)))
        self.scale = nnx.Param(jnp.ones(m))
        self.bias = nnx.Param(jnp.zeros(m))

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...]
        y = _patches(x) @ kernel.reshape(-1, kernel.shape[-1]).astype(x.dtype)
        wide, over = y.astype(jnp.promote_types(y.dtype, jnp.float32)), (0, 1, 2)
        centred = wide - wide.mean(over, keepdims=True)
        normal = centred * jax.lax.rsqrt(jnp.square(centred).mean(over, keepdims=True) + 1e-3)
        scale, bias = (p[...].reshape(1, 1, 1, -1) for p in (self.scale, self.bias))
        return nnx.relu(normal * scale + bias).astype(y.dtype)


def _patches(x: jax.Array) -> jax.Array:
    """Every second 3x3 square of images with a border of zeros: ``[b, h, w, 9 * channels]``."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = ((n + 1) // 2 for n in x.shape[1:3])
    shifted = [
        padded[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
        for i in range(3)
        for j in range(3)
    ]
    return jnp.concatenate(shifted, axis=-1)
