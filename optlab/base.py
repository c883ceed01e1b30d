"""The shapes that everything in optlab has: a transform, a solver, a codec, a bilevel problem.

A *transform* is an :class:`optax.GradientTransformation`; optlab adds no type of its own for it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

__all__ = ["BilevelProblem", "Codec", "Encoded", "Params", "PyTree", "Scalar", "Solver"]

PyTree = Any  # nested containers of arrays, None included
Params = Any  # a pytree of float arrays
Scalar = jax.Array  # shape=()


class Solver(NamedTuple):
    """A method for problems that need more than a gradient: bilevel, minimax, zeroth-order.

    ``state = init(...)`` and ``state, info = step(state, *batches, key=key)``. Both are pure, so
    that a step runs under ``jit``, ``scan`` and ``vmap``; states and infos are NamedTuples of
    arrays.
    """

    init: Callable[..., PyTree]
    step: Callable[..., tuple[PyTree, PyTree]]


class Encoded(NamedTuple):
    """An array at rest: its codes, and what scales them back."""

    code: jax.Array  # shape of the array; its last axis halved (rounded up) with two codes a byte
    scale: PyTree  # an array [..., blocks] or a tuple of arrays; () for codecs without a scale


class Codec(Protocol):
    """A stateless pair of maps between arrays and their codes: frozen, hashable, static in ``jit``.

    ``decode(encode(x), x.shape)`` has the shape of ``x`` and is float32. Codes keep the array's own
    shape, and blocks lie on the last axis, so that a code is sharded as its array is.
    """

    name: str  # of the function that makes it
    local: bool  # whether a block's code depends on that block alone: it then streams and shards

    @property
    def bits(self) -> float:
        """Bits that one element takes at rest, its share of the scales included."""
        ...

    def fit(self, shape: tuple[int, ...], shards: int = 1) -> "Codec":
        """Gives the codec whose blocks suit arrays of ``shape``.

        Where ``shards`` devices split the last axis, no block may straddle two of them.
        """
        ...

    def refit(self, encoded: Encoded, shape: tuple[int, ...] | None = None) -> "Codec":
        """Gives the codec whose blocks are those of ``encoded``, from the shapes alone."""
        ...

    def encode(self, x: jax.Array, *, key: jax.Array | None = None) -> Encoded:
        """Codes ``x``; with a ``key``, codecs that can round stochastically."""
        ...

    def decode(self, encoded: Encoded, shape: tuple[int, ...] | None = None) -> jax.Array:
        """Gives back the array; ``shape`` is needed where codes are packed and the axis odd."""
        ...


class BilevelProblem(NamedTuple):
    r"""Minimise ``outer(x, y*(x))`` over x, where ``y*(x)`` minimises ``inner(x, y)`` over y.

    Both functions take ``(x, y, batch)`` and return a scalar; data are arguments, never closed
    over.
    """

    outer: Callable[..., Scalar]
    inner: Callable[..., Scalar]
