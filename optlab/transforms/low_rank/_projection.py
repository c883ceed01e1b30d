"""The projection of one leaf along some of its axes."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from optlab._arithmetic import wide_dtype
from optlab.transforms.low_rank._projectors import Projector

__all__ = ["SIDES", "Projection"]

SIDES = ("short", "long", "left", "right", "both")


@dataclasses.dataclass(frozen=True)
class Projection:
    """Where and how a leaf of a given shape is projected; its bases are a tuple, one an axis.

    Attributes:
        shape: the leaf's shape.
        rank: the length of each projected axis.
        side: which axis of a matrix, see :func:`low_rank`.
        projector: what picks the bases.
    """

    shape: tuple[int, ...]
    rank: int
    side: str
    projector: Projector

    @property
    def axes(self) -> tuple[int, ...]:
        """The projected axes: of those that are asked for, the ones that become shorter."""
        if len(self.shape) == 2:
            short = 1 if self.shape[0] >= self.shape[1] else 0
            sides = {"short": [short], "long": [1 - short], "left": [0], "right": [1]}
            axes = sides.get(self.side, [0, 1])
        else:
            axes = range(len(self.shape)) if self.projector.tensors and len(self.shape) > 2 else []
        # An axis has at most as many leading directions as there are vectors along it.
        size = math.prod(self.shape)
        return tuple(a for a in axes if self.rank < self.shape[a] <= size // self.rank)

    def zeros(self, dtype) -> jax.Array:
        """The projection of zero."""
        shape = [self.rank if a in self.axes else d for a, d in enumerate(self.shape)]
        return jnp.zeros(shape, dtype)

    def init(self, dtype) -> tuple[jax.Array, ...]:
        """Gives what the state keeps before the first fit."""
        return tuple(self.projector.init(self.shape[a], self.rank, dtype) for a in self.axes)

    def fit(self, x, bases, key) -> tuple[jax.Array, ...]:
        """Fits bases to x; a tensor's are then improved, each on the projection by the others."""
        new = list(bases)
        for sweep in range(2 if len(self.shape) > 2 else 1):
            for i, axis in enumerate(self.axes):
                y = self.project(x, new, skip=axis) if sweep else x
                unfolded = jnp.moveaxis(y, axis, 0).reshape(self.shape[axis], -1)
                axis_key = jax.random.fold_in(key, axis)
                new[i] = self.projector.fit(unfolded, self.rank, bases[i], axis_key)
        return tuple(new)

    def project(self, x, bases, *, skip=None) -> jax.Array:
        """The coordinates of x in the bases; the axis ``skip`` is left alone."""
        for axis, matrix in self._matrices(bases, x.dtype):
            x = x if axis == skip else _along(x, matrix, axis)
        return x

    def lift(self, y, bases) -> jax.Array:
        """The array of the leaf's shape that has the coordinates y."""
        for axis, matrix in self._matrices(bases, y.dtype):
            y = _along(y, matrix.T, axis)
        return y

    def rotate(self, y, old, new, *, absolute: bool) -> jax.Array:
        """The coordinates in the new bases, from those in the old ones."""
        dtype = wide_dtype(y)
        z = y.astype(dtype)
        pairs = zip(self._matrices(old, dtype), self._matrices(new, dtype), strict=True)
        for (axis, before), (_, after) in pairs:
            z = _along(z, before.T @ after, axis)
        return (jnp.abs(z) if absolute else z).astype(y.dtype)

    def _matrices(self, bases, dtype):
        matrix = self.projector.matrix
        return [(a, matrix(b, self.shape[a], dtype)) for a, b in zip(self.axes, bases, strict=True)]


def _along(x, matrix, axis):
    """Multiplies ``axis`` of x, of length d, by a matrix of shape [d, k]."""
    return jnp.moveaxis(jnp.tensordot(x, matrix, axes=(axis, 0)), -1, axis)
