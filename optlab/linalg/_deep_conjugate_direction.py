"""Conjugate directions that a network proposes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from optlab._checks import check_count, check_range
from optlab.base import PyTree, Scalar
from optlab.linalg._solve import LinearInfo

__all__ = ["deep_conjugate_direction", "direction_loss", "ritz_samples"]

Map = Callable[[PyTree], PyTree]


def deep_conjugate_direction(
    matvec: Map,
    b: PyTree,
    direction: Map,
    *,
    x0: PyTree | None = None,
    history: int = 2,
    rtol: float = 1e-6,
    max_steps: int = 1000,
) -> tuple[PyTree, LinearInfo]:
    r"""Solves a positive definite system along directions that a function proposes.

    .. math::
        d \leftarrow \phi(r / \|r\|), \qquad
        d \leftarrow d - \sum_j \frac{d^\top A d_j}{d_j^\top A d_j} d_j, \qquad
        x \leftarrow x + \frac{r^\top d}{d^\top A d} d

    With the identity for :math:`\phi` these are conjugate gradients. A network that is trained by
    :func:`direction_loss` to act as the inverse, up to a factor, needs fewer steps; and whatever it
    proposes, no step raises the energy norm of the error, so that the answer is as exact as that of
    conjugate gradients.

    Args:
        matvec: the linear map, symmetric positive definite.
        b: right-hand side, a pytree of float arrays.
        direction: :math:`\phi`, from trees like ``b`` to trees like ``b``, its parameters bound.
        x0: where to start; None is zero.
        history: how many of the last directions a new one is made conjugate to, at least 1.
        rtol: relative residual at which to stop.
        max_steps: bound of the steps, one product with A and one call of ``direction`` each.

    Returns:
        x, like ``b``, and the account of it.

    Raises:
        ValueError: if a number is out of range.

    >>> a, b = jnp.diag(jnp.array([1.0, 4.0, 9.0])), jnp.ones(3)
    >>> x, info = deep_conjugate_direction(lambda v: a @ v, b, lambda r: r)
    >>> bool(jnp.allclose(a @ x, b, atol=1e-5)), int(info.iterations)
    (True, 3)

    References:
        A. Kaneda, O. Akar, J. Chen, V. Kala, D. Hyde, J. Teran, "A Deep Conjugate Direction Method
        for Iteratively Solving Linear Systems", ICML 2023, arXiv:2205.10763
    """
    check_count("history", history, 1)
    check_count("max_steps", max_steps, 1)
    check_range("rtol", rtol, 0.0, float("inf"), closed="()")
    threshold = rtol * optax.tree.norm(b)
    zeros = optax.tree.zeros_like(b)
    x = zeros if x0 is None else x0
    memory = jax.tree.map(lambda leaf: jnp.zeros((history, *leaf.shape), leaf.dtype), b)

    def weighted(weights, stack):
        return jax.tree.map(lambda s: jnp.tensordot(weights.astype(s.dtype), s, 1), stack)

    products = jax.vmap(optax.tree.vdot, in_axes=(None, 0))

    def unfinished(carry):
        r, steps = carry[1], carry[-1]
        return (steps < max_steps) & (optax.tree.norm(r) > threshold)

    def step(carry):
        x, r, past, images, curvatures, steps = carry
        d = direction(optax.tree.scale(1 / optax.tree.norm(r), r))
        weights = products(d, images) / curvatures
        d = optax.tree.sub(d, weighted(weights, past))
        ad = matvec(d)
        curvature = optax.tree.vdot(d, ad)
        safe = jnp.where(curvature > 0, curvature, 1)
        length = jnp.where(curvature > 0, optax.tree.vdot(r, d) / safe, 0)
        x = optax.tree.add_scale(x, length, d)
        r = optax.tree.add_scale(r, -length, ad)

        slot = steps % history

        def store(stack, new):
            return jax.tree.map(lambda s, n: s.at[slot].set(n), stack, new)

        past, images = store(past, d), store(images, ad)
        return x, r, past, images, curvatures.at[slot].set(safe), steps + 1

    r = optax.tree.sub(b, matvec(x))
    curvatures = jnp.ones(history, threshold.dtype)
    carry = (x, r, memory, memory, curvatures, jnp.zeros((), jnp.int32))
    x, _, _, _, _, steps = jax.lax.while_loop(unfinished, step, carry)
    residual = optax.tree.norm(optax.tree.sub(b, matvec(x)))
    norm = optax.tree.norm(b)
    relative = jnp.where(norm > 0, residual / jnp.where(norm > 0, norm, 1), residual)
    # The recursion's residual was below the threshold; rounding may leave the true one above.
    return x, LinearInfo(relative, steps, residual <= 10 * threshold)


def direction_loss(matvec: Map, direction: Map, r: PyTree) -> Scalar:
    r"""Measures how much of a residual one step along the proposed direction leaves.

    .. math::
        \Big\| r - \frac{r^\top d}{d^\top A d} A d \Big\|^2 / \|r\|^2, \qquad d = \phi(r / \|r\|)

    It needs no solutions: its minimum, zero, is where :math:`\phi` is the inverse up to a factor.

    Args:
        matvec: the linear map, symmetric positive definite.
        direction: :math:`\phi`.
        r: a sample, a pytree of float arrays.

    Returns:
        The loss, a scalar.

    >>> float(direction_loss(lambda v: 3.0 * v, lambda r: r, jnp.ones(2)))
    0.0

    References:
        A. Kaneda et al., arXiv:2205.10763: see :func:`deep_conjugate_direction`.
    """
    unit = optax.tree.scale(1 / optax.tree.norm(r), r)
    d = direction(unit)
    ad = matvec(d)
    length = optax.tree.vdot(unit, d) / optax.tree.vdot(d, ad)
    rest = optax.tree.add_scale(unit, -length, ad)
    return optax.tree.vdot(rest, rest)


def ritz_samples(
    matvec: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    count: int,
    *,
    key: jax.Array,
    rank: int = 64,
    emphasis: float = 9.0,
) -> jax.Array:
    r"""Draws residuals to train a direction on: mixtures of Ritz vectors.

    Lanczos from ``start`` gives approximate eigenvectors; a sample is their combination with normal
    weights, those of the lower half of the spectrum ``emphasis`` times as large, for conjugate
    gradients are slow there.

    Args:
        matvec: the linear map on vectors, symmetric.
        start: where Lanczos starts, shape ``[n]``; one with parts in all directions.
        count: how many samples.
        key: for the weights.
        rank: steps of Lanczos, at most n.
        emphasis: of the lower half.

    Returns:
        Samples of norm one, ``[count, n]``.

    Raises:
        ValueError: if a number is out of range.

    >>> import jax
    >>> a = jnp.diag(jnp.arange(1.0, 9.0))
    >>> ritz_samples(lambda v: a @ v, jnp.ones(8), 5, key=jax.random.key(0), rank=4).shape
    (5, 8)

    References:
        A. Kaneda et al., arXiv:2205.10763: see :func:`deep_conjugate_direction`.

    Differs from the paper: which vectors are emphasised is the lower half, not drawn anew.
    """
    check_count("count", count, 1)
    check_count("rank", rank, 1)
    check_range("emphasis", emphasis, 0.0, float("inf"), closed="()")
    rank = min(rank, start.size)
    basis = jnp.zeros((rank + 1, start.size), start.dtype)
    basis = basis.at[0].set(start / jnp.linalg.norm(start))

    def step(carry, j):
        basis, off = carry
        w = matvec(basis[j])
        alpha = w @ basis[j]
        for _ in range(2):  # against all: Lanczos forgets
            w = w - (basis @ w) @ basis
        beta = jnp.linalg.norm(w)
        basis = basis.at[j + 1].set(w / jnp.where(beta > 0, beta, 1))
        return (basis, off.at[j].set(beta)), alpha

    (basis, off), diagonal = jax.lax.scan(
        step, (basis, jnp.zeros(rank, start.dtype)), jnp.arange(rank)
    )
    off = off[: rank - 1]
    tridiagonal = jnp.diag(diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1)
    _, vectors = jnp.linalg.eigh(tridiagonal)
    weights = jax.random.normal(key, (count, rank), start.dtype)
    weights = weights * jnp.where(jnp.arange(rank) < (rank + 1) // 2, emphasis, 1.0)[None]
    samples = (weights @ vectors.T) @ basis[:rank]
    return samples / jnp.linalg.norm(samples, axis=1, keepdims=True)
