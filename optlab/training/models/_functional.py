"""A module as pure functions."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from optlab.base import Params, PyTree
from optlab.training._watch import watch_nnx

__all__ = ["Functional", "functional"]


class Functional(NamedTuple):
    """A model as two pure functions, to be jitted, differentiated and vmapped.

    The ``rest`` is what the model keeps beside its parameters: running statistics, or nothing.
    Like the parameters, it is a dict of arrays whose shapes and dtypes never change.

    Attributes:
        init: ``init(key) -> (params, rest)``.
        apply: ``apply(params, rest, inputs, *, train=False, key=None, taps=None) ->
            (outputs, rest)``. In training, batch normalisation uses the batch's statistics and
            moves those of the rest, and dropout draws from the key; in evaluation the rest comes
            back as it was. Floating inputs are cast to the parameters' dtype, in which the model
            computes; outputs are float32 or wider. Of the taps see
            :func:`optlab.training.watch_nnx`.
    """

    init: Callable[[jax.Array], tuple[Params, PyTree]]
    apply: Callable[..., tuple[jax.Array, PyTree]]


def functional(make: Callable[[jax.Array], nnx.Module]) -> Functional:
    """Turns a Flax nnx model into pure functions.

    Args:
        make: gives the model of a key; called as ``model(inputs, train=..., rngs=...)``, it maps
            inputs to outputs.

    Returns:
        Its functions ``init`` and ``apply``.

    Raises:
        ValueError: from ``apply``, in training with dropout, if there is no key.

    >>> from optlab.training.models import ResNet
    >>> model = functional(lambda key: ResNet((8, 8, 1), 10, depth=1, rngs=nnx.Rngs(key)))
    >>> params, rest = jax.eval_shape(model.init, jax.random.key(0))
    >>> logits, rest = jax.eval_shape(model.apply, params, rest, jnp.ones((2, 8, 8, 1)))
    >>> logits.shape, sorted(params), sorted(rest["norm"])
    ((2, 10), ['blocks', 'conv', 'head', 'norm'], ['mean', 'var'])
    """
    shapes = nnx.eval_shape(make, jax.random.key(0))
    graph, _, _ = nnx.split(shapes, nnx.Param, ...)
    draws = any(isinstance(m, nnx.Dropout) and m.rate > 0 for _, m in nnx.iter_modules(shapes))

    def init(key):
        _, params, rest = nnx.split(make(key), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

    def apply(params, rest, inputs, *, train=False, key=None, taps=None):
        if train and draws and key is None:
            raise ValueError("key must be given in training, for the dropout.")
        inputs = jnp.asarray(inputs)
        if jnp.issubdtype(inputs.dtype, jnp.floating):
            inputs = inputs.astype(jnp.result_type(*jax.tree.leaves(params)))
        model = nnx.merge(graph, params, rest)
        rngs = None if key is None else nnx.Rngs(dropout=key)
        with watch_nnx(model, taps or {}):
            outputs = model(inputs, train=train, rngs=rngs)
        _, _, rest = nnx.split(model, nnx.Param, ...)
        outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
        return outputs, nnx.to_pure_dict(rest)

    return Functional(init, apply)
