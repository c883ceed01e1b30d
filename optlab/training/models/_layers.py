"""Dense layers and convolutions that some methods bring along."""

import functools
from collections.abc import Callable

import jax
from flax import nnx

from optlab.training._config import ConfigError, nearest
from optlab.transforms.adaptive import tract_conv, tract_dense
from optlab.transforms.low_rank import spectral_dense, spectral_factors

__all__ = ["SpectralLinear", "convolutions", "dense_layers"]


class SpectralLinear(nnx.Module):
    """A dense layer whose kernel is kept as its singular triplets, for ``sparse_spectral``.

    Args:
        n, m: inputs and outputs.
        rngs: of the initial kernel and bias, those of ``nnx.Linear``.
    """

    def __init__(self, n: int, m: int, *, rngs: nnx.Rngs):
        dense = nnx.Linear(n, m, rngs=rngs)
        self.kernel = nnx.Param(spectral_factors(dense.kernel[...]))
        self.bias = dense.bias

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps inputs ``[..., n]`` to outputs ``[..., m]``."""
        y = spectral_dense(x, self.kernel.get_value())
        return y + self.bias[...].reshape((1,) * (y.ndim - 1) + (-1,))


def dense_layers(kind: str) -> tuple[Callable[..., nnx.Module], Callable[..., nnx.Module]]:
    """Gives what makes the first dense layer of a model, and what makes the others.

    Args:
        kind: ``plain``, ``tract`` (see :func:`optlab.transforms.adaptive.tract_dense`) or
            ``spectral`` (see :func:`optlab.transforms.low_rank.sparse_spectral`).

    Returns:
        Two functions of the inputs, the outputs and ``rngs``.

    Raises:
        ConfigError: if there is no such kind.

    >>> first, later = dense_layers("tract")
    >>> later is nnx.Linear, first is nnx.Linear
    (True, False)
    """
    tract = functools.partial(nnx.Linear, dot_general=tract_dense())
    kinds = {
        "plain": (nnx.Linear, nnx.Linear),
        "spectral": (SpectralLinear, SpectralLinear),
        "tract": (tract, nnx.Linear),
    }
    return _of_kind(kind, kinds)


def convolutions(kind: str) -> tuple[Callable[..., nnx.Module], Callable[..., nnx.Module]]:
    """Gives what makes the first convolution of a model, and what makes the others.

    Args:
        kind: ``plain``, or ``tract`` (see :func:`optlab.transforms.adaptive.tract_conv`).

    Returns:
        Two functions of the arguments of ``nnx.Conv``.

    Raises:
        ConfigError: if there is no such kind.

    >>> convolutions("spectral")
    Traceback (most recent call last):
    optlab.training._config.ConfigError: model.layers 'spectral' is unknown; there is plain, tract.
    """
    tract = functools.partial(nnx.Conv, conv_general_dilated=tract_conv())
    return _of_kind(kind, {"plain": (nnx.Conv, nnx.Conv), "tract": (tract, nnx.Conv)})


def _of_kind(kind, kinds):
    if kind not in kinds:
        raise ConfigError(f"model.layers {kind!r} is unknown; {nearest(kind, kinds)}")
    return kinds[kind]
