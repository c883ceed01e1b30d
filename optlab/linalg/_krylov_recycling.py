"""GCRO-DR: a Krylov method that hands what it learnt of one matrix to the next."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from optlab._checks import check_count, check_range
from optlab.base import PyTree
from optlab.linalg._solve import LinearInfo

__all__ = ["RecycledSpace", "krylov_recycling", "recycled_space", "similarity_order"]


class RecycledSpace(NamedTuple):
    """Directions that the last matrices shrink most; a zero row is no direction."""

    basis: jax.Array  # shape=(rank, n)


def recycled_space(b: PyTree, rank: int) -> RecycledSpace:
    """Gives the empty space with which a sequence begins.

    Args:
        b: a right-hand side, for its size and dtype.
        rank: how many directions are to be kept.

    Returns:
        The space.

    Raises:
        ValueError: if ``rank`` is out of range.

    >>> recycled_space(jnp.ones(7), rank=2).basis.shape
    (2, 7)
    """
    check_count("rank", rank, 1)
    flat, _ = ravel_pytree(b)
    if rank >= flat.size:
        raise ValueError(f"rank must be below the size of b, {flat.size}, got {rank}.")
    return RecycledSpace(jnp.zeros((rank, flat.size), flat.dtype))


def krylov_recycling(
    matvec: Callable[[PyTree], PyTree],
    b: PyTree,
    space: RecycledSpace,
    *,
    x0: PyTree | None = None,
    cycle: int = 30,
    rtol: float = 1e-6,
    max_cycles: int = 50,
) -> tuple[PyTree, LinearInfo, RecycledSpace]:
    r"""Solves one system of a sequence, and learns for the next ones.

    GMRES forgets its subspace at each restart, and all of it when the next system comes. GCRO-DR
    keeps a few directions U with :math:`C = A U` orthonormal, minimises over them first, and lets
    Arnoldi work on what they leave:

    .. math::
        x \leftarrow x + U C^\top r, \qquad r \leftarrow (I - C C^\top) r, \qquad
        (I - C C^\top) A V_m = V_{m+1} \bar H_m

    After each cycle the directions of the smallest :math:`\|A z\| / \|z\|` in the space of U and V
    become the new U. For matrices that differ little it needs few steps from the second system on;
    :func:`similarity_order` brings a set of systems into such an order.

    Args:
        matvec: the linear map, any square matrix.
        b: right-hand side, a pytree of float arrays.
        space: what the last system left, or :func:`recycled_space`.
        x0: where to start; None is zero.
        cycle: m, steps of Arnoldi until U is renewed: m + 1 vectors are kept beside 2 rank.
        rtol: relative residual at which to stop.
        max_cycles: bound of the cycles.

    Returns:
        x, like ``b``; the account of it, whose iterations are products with A, those that renew
        C for a new matrix included; and the space for the next system.

    Raises:
        ValueError: if a number is out of range, or ``space`` is of another size than ``b``.

    >>> a = jnp.diag(jnp.arange(1.0, 21.0))
    >>> b = jnp.ones(20)
    >>> x, first, space = krylov_recycling(lambda v: a @ v, b, recycled_space(b, 4), cycle=10)
    >>> x, second, space = krylov_recycling(lambda v: a @ v, b, space, cycle=10)
    >>> bool(first.converged), bool(second.iterations < first.iterations)
    (True, True)

    References:
        M. Parks, E. de Sturler, G. Mackey, D. Johnson, S. Maiti, "Recycling Krylov Subspaces for
        Sequences of Linear Systems", SIAM J. Sci. Comput. 2006; H. Wang, Z. Hao, J. Wang et al.,
        "Accelerating Data Generation for Neural Operators via Krylov Subspace Recycling",
        ICLR 2024, arXiv:2401.09516

    Differs from the papers: U are approximate singular vectors in place of harmonic Ritz vectors.
    For symmetric matrices both tend to the same; and no complex eigenvectors arise, which jax has
    on the CPU only.
    """
    check_count("cycle", cycle, 1)
    check_count("max_cycles", max_cycles, 1)
    check_range("rtol", rtol, 0.0, float("inf"), closed="()")
    flat_b, unravel = ravel_pytree(b)
    if space.basis.shape[1] != flat_b.size:
        raise ValueError(
            f"space must be of vectors of size {flat_b.size}, got {space.basis.shape[1]}."
        )
    start = jnp.zeros_like(flat_b) if x0 is None else ravel_pytree(x0)[0]
    cycle = min(cycle, flat_b.size - space.basis.shape[0])

    def product(v):
        return ravel_pytree(matvec(unravel(v)))[0]

    threshold = rtol * jnp.linalg.norm(flat_b)
    used = jnp.any(space.basis != 0, axis=1)
    u, c = _with_image(space.basis, jax.vmap(product)(space.basis), used)
    x, r = start, flat_b - product(start)
    products = 1 + jnp.sum(used, dtype=jnp.int32)

    def unfinished(carry):
        _, r, _, _, _, cycles, gains = carry
        return gains & (cycles < max_cycles) & (jnp.linalg.norm(r) > threshold)

    def run(carry):
        x, r, u, c, products, cycles, _ = carry
        x, u, c, steps = _cycle(product, x, r, u, c, threshold, cycle)
        # The recursion's residual drifts from the true one; at the limit of rounding nothing gains.
        true = flat_b - product(x)
        gains = jnp.linalg.norm(true) < 0.999 * jnp.linalg.norm(r)
        return x, true, u, c, products + steps + 1, cycles + 1, gains

    carry = (x, r, u, c, products, jnp.zeros((), jnp.int32), jnp.array(True))
    x, r, u, c, products, _, _ = jax.lax.while_loop(unfinished, run, carry)
    residual, norm = jnp.linalg.norm(r), jnp.linalg.norm(flat_b)
    info = LinearInfo(
        residual=jnp.where(norm > 0, residual / jnp.where(norm > 0, norm, 1), residual),
        iterations=products,
        converged=residual <= threshold,
    )
    return unravel(x), info, RecycledSpace(u)


def _with_image(u, image, used):
    """Scales U so that C = A U is orthonormal; unused rows are zero."""
    # A row that is no direction gets a unit vector of its own, so that QR has full rank.
    filler = jnp.eye(*u.shape, dtype=u.dtype)
    q, triangle = jnp.linalg.qr(jnp.where(used[:, None], image, filler).T)
    scaled = jax.scipy.linalg.solve_triangular(triangle.T, u, lower=True)
    return jnp.where(used[:, None], scaled, 0), jnp.where(used[:, None], q.T, 0)


def _cycle(product, x, r, u, c, threshold, m):
    """One cycle of Arnoldi beside U; the least-squares step; the new U."""
    rank, n = u.shape
    dtype = r.dtype
    # C has changed since the last projection, and rounding brings back what was projected out.
    x, r = x + (c @ r) @ u, r - (c @ r) @ c
    norm = jnp.linalg.norm(r)
    v = jnp.zeros((m + 1, n), dtype).at[0].set(r / norm)
    h = jnp.zeros((m + 1, m), dtype)
    b = jnp.zeros((rank, m), dtype)
    # The vector f with f^T H = 0 and f_0 = 1 gives the residual of least squares: |r| / |f|.
    f = jnp.zeros(m + 1, dtype).at[0].set(1)

    def unfinished(carry):
        _, _, _, f, j = carry
        return (j < m) & (norm > threshold * jnp.linalg.norm(f))

    def step(carry):
        v, h, b, f, j = carry
        w = product(v[j])
        inside, column = jnp.zeros(rank, dtype), jnp.zeros(m + 1, dtype)
        for _ in range(2):  # once is orthogonal in exact arithmetic only
            more, along = c @ w, v @ w
            w = w - more @ c - along @ v
            inside, column = inside + more, column + along
        length = jnp.linalg.norm(w)
        v = v.at[j + 1].set(w / jnp.where(length > 0, length, 1))
        f = f.at[j + 1].set(-(f @ column) / jnp.where(length > 0, length, 1))
        column = column.at[j + 1].add(length)
        return v, h.at[:, j].set(column), b.at[:, j].set(inside), f, j + 1

    v, h, b, _, steps = jax.lax.while_loop(unfinished, step, (v, h, b, f, jnp.int32(0)))

    # r is orthogonal to C, hence the step splits: first along V, then what that needs along U.
    y = jnp.linalg.lstsq(h, norm * jnp.zeros(m + 1, dtype).at[0].set(1))[0]
    x = x + y @ v[:m] - (b @ y) @ u
    # [U V] z and its image [C V] G z: the smallest singular vectors of the one to the other.
    lengths = jnp.linalg.norm(u, axis=1)
    scale = 1 / jnp.where(lengths > 0, lengths, 1)
    outside = jnp.concatenate([u * scale[:, None], v[:m]])
    g = jnp.block(
        [[jnp.diag(jnp.where(lengths > 0, scale, 0)), b], [jnp.zeros((m + 1, rank), dtype), h]]
    )
    alive = jnp.concatenate([lengths > 0, jnp.arange(m) < steps])
    filled = jnp.where(alive[:, None], outside, jnp.eye(*outside.shape, dtype=dtype))
    _, triangle = jnp.linalg.qr(filled.T)
    back = jax.scipy.linalg.solve_triangular(triangle, jnp.eye(rank + m, dtype=dtype))
    # Columns that are no directions are made the largest, so that they are not chosen.
    large = 1e3 * jnp.linalg.norm(g) + 1
    image = jnp.concatenate([g, large * jnp.diag(jnp.where(alive, 0, 1).astype(dtype))])
    _, _, right = jnp.linalg.svd(image @ back, full_matrices=False)
    z = jnp.where(alive[:, None], back @ right[::-1][:rank].T, 0)
    chosen = jnp.arange(rank) < jnp.sum(alive)
    u = jnp.where(chosen[:, None], z.T @ outside, 0)
    images = (g @ z).T @ jnp.concatenate([c, v])
    u, c = _with_image(u, images, chosen)
    return x, u, c, steps


def similarity_order(features: jax.Array) -> jax.Array:
    """Orders systems so that each is near the one before: greedily, by nearest neighbours.

    Args:
        features: what the matrices depend on, ``[systems, ...]``.

    Returns:
        Indices, ``[systems]``, from the first system on.

    >>> similarity_order(jnp.array([0.0, 5.0, 1.0, 4.0])).tolist()
    [0, 2, 3, 1]

    References:
        H. Wang, Z. Hao, J. Wang et al., "Accelerating Data Generation for Neural Operators via
        Krylov Subspace Recycling", ICLR 2024, arXiv:2401.09516
    """
    rows = features.reshape(features.shape[0], -1)

    def step(carry, _):
        current, left = carry
        distances = jnp.sum((rows - rows[current][None]) ** 2, axis=1)
        following = jnp.argmin(jnp.where(left, distances, jnp.inf))
        return (following, left.at[following].set(False)), current

    left = jnp.ones(rows.shape[0], bool).at[0].set(False)
    _, order = jax.lax.scan(step, (jnp.zeros((), int), left), length=rows.shape[0])
    return order
