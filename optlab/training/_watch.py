"""Statistics of a Flax network's dense layers, without changing its modules."""

import contextlib
from collections.abc import Iterator, Mapping

import flax.linen as nn
from flax import nnx

from optlab.transforms.curvature import LayerStatistics, watch, watch_conv

__all__ = ["watch_linen", "watch_nnx"]


@contextlib.contextmanager
def watch_linen(taps: Mapping[str, LayerStatistics]) -> Iterator[None]:
    """Watches the ``Dense`` layers of linen modules that are applied inside.

    Args:
        taps: see :func:`optlab.transforms.curvature.layer_taps`; a ``Dense`` whose path is not
            among its keys is left alone.

    Returns:
        A context manager.

    >>> import jax
    >>> from optlab.transforms.curvature import layer_taps
    >>> model, x = nn.Dense(1), jax.numpy.array([[1.0], [3.0]])
    >>> def loss(params, taps):
    ...     with watch_linen(taps):
    ...         return model.apply({"params": params}, x).mean()
    >>> params = model.init(jax.random.key(0), x)["params"]
    >>> jax.grad(loss, argnums=1)(params, layer_taps(params))[""].inputs.tolist()
    [2.0]
    """

    def watched(call, args, kwargs, context):
        y = call(*args, **kwargs)
        dense = isinstance(context.module, nn.Dense) and context.method_name == "__call__"
        tap = taps.get("/".join(context.module.path)) if dense else None
        return y if tap is None else watch(args[0] if args else kwargs["inputs"], y, tap)

    with nn.intercept_methods(watched):
        yield


@contextlib.contextmanager
def watch_nnx(model: nnx.Module, taps: Mapping[str, LayerStatistics]) -> Iterator[nnx.Module]:
    """Watches the ``Linear`` and ``Conv`` layers of an nnx model that is called inside.

    Args:
        model: the model; inside, its layers hold a product that is watched, so split it outside.
            Convolutions are of images, without groups.
        taps: see :func:`optlab.transforms.curvature.layer_taps`; a layer whose path is not among
            its keys is left alone.

    Returns:
        A context manager that gives the model.

    >>> import jax
    >>> from optlab.transforms.curvature import layer_taps
    >>> graph, params = nnx.split(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), nnx.Param)
    >>> def loss(params, taps):
    ...     with watch_nnx(nnx.merge(graph, params), taps) as model:
    ...         return model(jax.numpy.array([[1.0], [3.0]])).mean()
    >>> jax.grad(loss, argnums=1)(params, layer_taps(params))[""].inputs.tolist()
    [2.0]
    """

    def watched(dot_general, tap):
        def product(x, kernel, *args, **kwargs):
            return watch(x, dot_general(x, kernel, *args, **kwargs), tap)

        return product

    def watched_conv(convolve, tap):
        def convolution(x, kernel, strides, padding, *, rhs_dilation, **kwargs):
            y = convolve(x, kernel, strides, padding, rhs_dilation=rhs_dilation, **kwargs)
            window = {"window": kernel.shape[:2], "strides": strides, "padding": padding}
            return watch_conv(x, y, tap, dilation=rhs_dilation, **window)

        return convolution

    replaced = []
    try:
        for path, layer in nnx.iter_modules(model) if taps else ():
            tap = taps.get("/".join(map(str, path)))
            for kind, name, watch_it in (
                (nnx.Linear, "dot_general", watched),
                (nnx.Conv, "conv_general_dilated", watched_conv),
            ):
                if isinstance(layer, kind) and tap is not None:
                    product = getattr(layer, name)
                    replaced.append((layer, name, product))
                    setattr(layer, name, watch_it(product, tap))
        yield model
    finally:
        for layer, name, product in replaced:
            setattr(layer, name, product)
