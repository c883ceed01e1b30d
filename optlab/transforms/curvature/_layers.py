"""The dense and convolutional layers of a network, and their statistics as gradients of a tap."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from optlab._arithmetic import wide_dtype
from optlab.base import Params

__all__ = ["LayerStatistics", "layer_taps", "layers", "watch", "watch_conv"]


class LayerStatistics(NamedTuple):
    """Means over the batch of what goes into a layer and of what comes back to it."""

    inputs: jax.Array  # shape=(in,), the mean input; of a convolution the mean patch, flat
    outputs: jax.Array  # shape=(out,), the mean gradient of one example's loss by the output


class Layer(NamedTuple):
    """Where the leaves of a layer are, among the flattened leaves of a tree."""

    name: str  # the path of the layer, its parts joined by slashes
    kernel: int  # index of the leaf [in, out], or [height, width, channels, out]
    bias: int | None  # index of the leaf [out]


def layers(params: Params, first_order: str | None) -> list[Layer]:
    """Finds layers: a kernel of two axes, or of four, with or without a vector called bias."""
    found, leaves = {}, jax.tree_util.tree_leaves_with_path(params)
    for index, (path, leaf) in enumerate(leaves):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        name = name.removesuffix("/value")  # Flax nnx holds its arrays so
        parent, _, last = name.rpartition("/")
        if (last, leaf.ndim) in (("kernel", 2), ("kernel", 4), ("bias", 1)):
            found.setdefault(parent, {})[last] = index
    return [
        Layer(name, parts["kernel"], parts.get("bias"))
        for name, parts in found.items()
        if "kernel" in parts and not (first_order and re.search(first_order, name))
    ]


def layer_taps(params: Params, *, first_order: str | None = None) -> dict[str, LayerStatistics]:
    """Gives the zeros whose gradients are the statistics of a network's layers.

    They are arguments of the loss, beside the params, and reach the layers through :func:`watch`,
    or :func:`watch_conv` for convolutions. The gradient with respect to them is what
    :func:`scale_by_mkor` takes for ``statistics``. So one backward pass gives both, in any
    framework and under any transformation of jax.

    Args:
        params: the params. A layer is a ``kernel`` of two axes, inputs first, or of four, the
            window, channels and outputs of a convolution, and a ``bias`` if any.
        first_order: a regular expression; the layers in whose path it is found are left out.

    Returns:
        A dict of zeros, one entry a layer, by the layer's path with its parts joined by slashes.

    >>> params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    >>> taps = layer_taps(params)
    >>> def loss(params, taps, x):
    ...     y = x @ params["dense"]["kernel"] + params["dense"]["bias"][None]
    ...     return jnp.mean(watch(x, y, taps["dense"]))
    >>> jax.grad(loss, argnums=1)(params, taps, jnp.eye(2))["dense"].inputs.tolist()
    [0.5, 0.5]
    """
    leaves = jax.tree.leaves(params)

    def zeros(layer):
        *inputs, outputs = leaves[layer.kernel].shape
        dtype = wide_dtype(leaves[layer.kernel])
        return LayerStatistics(jnp.zeros(math.prod(inputs), dtype), jnp.zeros(outputs, dtype))

    return {layer.name: zeros(layer) for layer in layers(params, first_order)}


@jax.custom_vjp
def _tapped(mean, y, tap):
    del mean, tap
    return y


def _tapped_forward(mean, y, tap):
    return y, (mean, tap)


def _tapped_backward(saved, gradient):
    mean, tap = saved
    total = jnp.sum(gradient, axis=range(gradient.ndim - 1), dtype=tap.outputs.dtype)
    return jnp.zeros_like(mean), gradient, LayerStatistics(mean.astype(tap.inputs.dtype), total)


_tapped.defvjp(_tapped_forward, _tapped_backward)


def watch(x: jax.Array, y: jax.Array, tap: LayerStatistics) -> jax.Array:
    """Gives ``y``, and makes the gradient by ``tap`` the statistics of the layer from x to y.

    Args:
        x: inputs of a dense layer, shape ``[..., in]``; all leading axes count examples.
        y: its outputs, with or without bias, shape ``[..., out]``. The loss is to be a mean over
            examples, so that one's gradient times their number is the gradient of its own loss.
        tap: the layer's entry of :func:`layer_taps`.

    Returns:
        ``y`` itself. Its own gradient is not changed.

    Raises:
        ValueError: if the shapes do not match.

    >>> x, tap = jnp.array([[1.0], [3.0]]), LayerStatistics(jnp.zeros(1), jnp.zeros(1))
    >>> statistics = jax.grad(lambda tap: jnp.mean(5 * watch(x, 2 * x, tap)))(tap)
    >>> statistics.inputs.tolist(), statistics.outputs.tolist()
    ([2.0], [5.0])
    """
    dtype = wide_dtype(x)
    mean = jnp.mean(jax.lax.stop_gradient(x), axis=range(x.ndim - 1), dtype=dtype)
    return _checked(mean, x, y, tap)


def watch_conv(
    x: jax.Array,
    y: jax.Array,
    tap: LayerStatistics,
    *,
    window: Sequence[int],
    strides: Sequence[int] = (1, 1),
    padding: str | Sequence[tuple[int, int]] = "SAME",
    dilation: Sequence[int] = (1, 1),
) -> jax.Array:
    """Gives ``y``, and makes the gradient by ``tap`` the statistics of the convolution x to y.

    Every position of the window is an example of a dense layer from the patch under it: what
    :func:`watch` gives for the patches, without cutting them out, for the mean patch is the patch
    of the mean image.

    Args:
        x: inputs of a convolution without groups, shape ``[..., height, width, channels]``.
        y: its outputs, with or without bias, shape ``[..., height', width', out]``.
        tap: the layer's entry of :func:`layer_taps`.
        window: height and width of the kernel.
        strides: of the window.
        padding: ``"SAME"``, ``"VALID"``, or what is added before and after each of the two axes.
        dilation: of the kernel.

    Returns:
        ``y`` itself. Its own gradient is not changed.

    Raises:
        ValueError: if the shapes do not match.

    >>> x, tap = jnp.ones((2, 3, 3, 1)), LayerStatistics(jnp.zeros(4), jnp.zeros(1))
    >>> loss = lambda tap: jnp.mean(watch_conv(x, 2 * x, tap, window=(2, 2)))
    >>> [round(float(a), 3) for a in jax.grad(loss)(tap).inputs]  # zeros beyond two edges
    [1.0, 0.667, 0.667, 0.444]
    """
    if x.ndim < 3:
        raise ValueError(f"x must have height, width and channels last, got shape {x.shape}.")
    image = jnp.mean(jax.lax.stop_gradient(x), axis=range(x.ndim - 3), dtype=wide_dtype(x))
    patches = jax.lax.conv_general_dilated_patches(
        image[None],
        window,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,  # they are cut out by a convolution
    )
    mean = jnp.mean(patches, axis=(0, 1, 2)).reshape(x.shape[-1], *window)  # channels come first
    return _checked(jnp.moveaxis(mean, 0, -1).ravel(), x, y, tap)


def _checked(mean, x, y, tap):
    if mean.shape != tap.inputs.shape or y.shape[-1:] != tap.outputs.shape:
        raise ValueError(
            f"tap is of a layer from {tap.inputs.shape} to {tap.outputs.shape}, but x and y have "
            f"shapes {x.shape} and {y.shape}."
        )
    return _tapped(mean, y, tap)
