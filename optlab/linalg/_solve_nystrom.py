"""Low-rank approximations of a positive semi-definite matrix from a few products with it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from optlab.base import PyTree

__all__ = ["nystrom_inverse", "nystrom_preconditioner"]

Map = Callable[[PyTree], PyTree]


def _flat(product: Map, b: PyTree) -> tuple[jax.Array, Callable, Callable]:
    """The vector of b, its inverse, and the map on rows of vectors, ``[rank, n]``."""
    vector, unravel = ravel_pytree(b)
    return vector, unravel, jax.vmap(lambda v: ravel_pytree(product(unravel(v)))[0])


def nystrom_inverse(product: Map, b: PyTree, damping, rank: int, key: jax.Array) -> PyTree:
    """Applies ``(C^T M^+ C + damping I)^{-1}`` to b, with C some random rows of A.

    The Woodbury identity leaves one solve of size ``rank``. Its matrix is symmetric; directions
    that carry nothing but rounding are dropped.
    """
    vector, unravel, products = _flat(product, b)
    chosen = jax.random.choice(key, vector.size, (rank,), replace=False)
    rows = products(
        jnp.zeros((rank, vector.size), vector.dtype).at[jnp.arange(rank), chosen].set(1)
    )
    core = rows[:, chosen]
    inner = 0.5 * (core + core.T) + rows @ rows.T / damping
    correction = rows.T @ (jnp.linalg.pinv(inner, hermitian=True) @ (rows @ vector))
    return unravel((vector - correction / damping) / damping)


def nystrom_preconditioner(product: Map, b: PyTree, damping, rank: int, key: jax.Array) -> Map:
    """The inverse of a randomized Nystrom approximation, for conjugate gradients.

    A is the undamped matrix: P^{-1} = (l_r + mu) U (L + mu)^{-1} U^T + I - U U^T.
    """
    vector, unravel, products = _flat(product, b)
    basis = jnp.linalg.qr(jax.random.normal(key, (vector.size, rank), vector.dtype))[0]
    sketch = products(basis.T).T
    # A small multiple of the identity makes the Cholesky factor exist; it is taken off again.
    eps = jnp.finfo(vector.dtype).eps
    shift = eps * jnp.linalg.norm(sketch) + jnp.finfo(vector.dtype).tiny
    sketch = sketch + shift * basis
    core = basis.T @ sketch
    factor = jnp.linalg.cholesky(0.5 * (core + core.T))
    half = jax.scipy.linalg.solve_triangular(factor, sketch.T, lower=True).T
    modes, roots, _ = jnp.linalg.svd(half, full_matrices=False)
    eigenvalues = jnp.maximum(roots**2 - shift, 0) + damping
    ratio = eigenvalues[-1] / jnp.where(eigenvalues == 0, 1, eigenvalues)
    # Where the smallest is zero, only the modes above it are scaled.
    ratio = jnp.where(eigenvalues[-1] > 0, ratio, 1)

    def precondition(r):
        v, _ = ravel_pytree(r)
        coordinates = modes.T @ v
        return unravel(v + modes @ ((ratio - 1) * coordinates))

    return precondition
