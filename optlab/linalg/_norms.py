"""Norms, and division by them, that neither overflow nor underflow."""

import functools

import jax
import jax.numpy as jnp

from optlab._arithmetic import wide_dtype
from optlab.base import PyTree, Scalar

__all__ = ["global_norm", "normalize", "safe_norm"]


def _shrink(x: jax.Array) -> jax.Array:
    """A power of two that brings large numbers to where their reciprocals are normal numbers.

    XLA turns a division by one number into a product with its reciprocal; that of 1e38 is flushed
    to zero in float32.
    """
    return jnp.where(x > 1, 2.0**-16, 1.0).astype(x.dtype)


def safe_norm(
    x: jax.Array,
    *,
    ord: float = 2.0,
    axis: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
) -> jax.Array:
    r"""The entry-wise p-norm, scaled by the largest entry so that no power over- or underflows.

    .. math:: \|x\|_p = s \Big(\sum_i |x_i / s|^p\Big)^{1/p}, \qquad s = \max_i |x_i|

    Args:
        x: array of any shape; may be of size zero.
        ord: p in [1, inf].
        axis: the axes summed over; None means all.
        keepdims: keep the summed axes with length one.

    Returns:
        The norm, with the dtype of ``x``. Its gradient at zero is zero. A NaN gives NaN, an
        infinite entry NaN or inf.

    >>> float(safe_norm(jnp.array([3e-30, 4e-30]))) > 0
    True
    """
    magnitude = jnp.abs(x.astype(wide_dtype(x)))
    largest = jnp.max(magnitude, axis=axis, keepdims=True, initial=0.0)
    if ord == jnp.inf:
        norm = largest
    else:
        # The norm is the same at any scale, so the gradient need not pass through it.
        scale = jax.lax.stop_gradient(jnp.maximum(largest, jnp.finfo(magnitude.dtype).tiny))
        shrink = _shrink(scale)
        # Not times a reciprocal, whose square XLA may fold to inf; a square, as `pow` is slow.
        ratio = (magnitude * shrink) / (scale * shrink)
        power = ratio * ratio if ord == 2 else ratio**ord
        total = jnp.sum(power, axis=axis, keepdims=True)
        total = jnp.where(total == 0, 1, total)  # the root has no derivative at zero
        root = jnp.sqrt(total) if ord == 2 else total ** (1 / ord)
        norm = jnp.where(largest == 0, 0, scale * root)
    return (norm if keepdims else jnp.squeeze(norm, axis=axis)).astype(x.dtype)


def global_norm(tree: PyTree) -> Scalar:
    """The Euclidean norm of all leaves together, which neither over- nor underflows.

    Args:
        tree: pytree of arrays of any shapes, empty ones included.

    Returns:
        The norm, in the widest dtype of the leaves; 0 without leaves.

    >>> float(global_norm({"a": jnp.array([3e30]), "b": jnp.array([4e30])})) < jnp.inf
    True
    """
    return functools.reduce(jnp.hypot, map(safe_norm, jax.tree.leaves(tree)), 0.0)


def normalize(x: jax.Array, norm: jax.Array) -> jax.Array:
    """Divides by a norm, at any scale; zero stays zero.

    Args:
        x: array of any shape.
        norm: of it, scalar or with axes of length one.

    Returns:
        ``x / norm``, or ``x`` where the norm is zero; NaN where the norm is NaN.

    >>> normalize(jnp.array([3e38, 0.0]), jnp.array(3e38)).tolist()
    [1.0, 0.0]
    """
    shrink = _shrink(norm)
    return (x * shrink) / (jnp.where(norm == 0, 1, norm) * shrink)
