"""Projections in the Kullback-Leibler divergence: entropic optimal transport."""

import jax
import jax.numpy as jnp

from optlab.implicit._root import custom_root
from optlab.implicit.conditions import stationarity

__all__ = ["check_sums", "kl_birkhoff", "kl_transport"]


def check_sums(v: jax.Array, a: jax.Array, b: jax.Array) -> None:
    """Raises ValueError unless a and b have a number for each row and column of the matrix v."""
    if jnp.ndim(v) != 2 or (jnp.shape(a), jnp.shape(b)) != tuple((n,) for n in jnp.shape(v)):
        raise ValueError(
            "v must be a matrix, a have its rows and b its columns, got shapes"
            f" {jnp.shape(v)}, {jnp.shape(a)} and {jnp.shape(b)}."
        )


def kl_transport(v: jax.Array, a: jax.Array, b: jax.Array, *, max_steps: int = 200) -> jax.Array:
    r"""Projects :math:`e^V` on the transport polytope, in the Kullback-Leibler divergence.

    .. math::
        \min_X \sum_{ij} X_{ij} (\log X_{ij} - V_{ij} - 1) \quad\text{where}\quad
        X \mathbf 1 = a, \; X^\top \mathbf 1 = b

    For :math:`V = -C / \varepsilon` this is the entropic transport plan of cost C. With the column
    potential :math:`\beta` the answer is :math:`X_{ij} = a_i \, \mathrm{softmax}_j(V_{ij} -
    \beta_j)`, and :math:`\beta` minimises a smooth convex function: Sinkhorn's step, which never
    increases it, and then a Newton step with a line search.

    Args:
        v: V, shape ``[rows, cols]``; an entry of minus infinity forbids a cell.
        a, b: shapes ``[rows]`` and ``[cols]``, a not negative, b positive, of one sum.
        max_steps: bound of the steps.

    Returns:
        Shape ``[rows, cols]``; NaN where ``max_steps`` did not suffice, as for sums that differ.
        Differentiable; in a and b along directions that keep their sums equal.

    Raises:
        ValueError: if the shapes do not suit each other.

    >>> plan = kl_transport(jnp.zeros((2, 2)), jnp.array([0.25, 0.75]), jnp.full(2, 0.5))
    >>> plan.sum(axis=0).round(4).tolist()
    [0.5, 0.5]

    References:
        M. Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", NeurIPS 2013,
        arXiv:1306.0895; M. Cuturi, G. Peyré, "A Smoothed Dual Approach for Variational Wasserstein
        Problems", SIAM J. Imaging Sci. 2016, arXiv:1503.02533 (the function of one potential)

    Differs from the papers: Newton steps end what Sinkhorn's begin.
    """
    check_sums(v, a, b)

    def dual(beta, v, a, b):
        # The potential's free constant is chosen by the last term: the Hessian is then regular.
        free = 0.5 * jnp.sum(b) * jnp.mean(beta) ** 2
        return jnp.vdot(a, jax.nn.logsumexp(v - beta[None, :], axis=1)) + jnp.vdot(b, beta) + free

    def shares(beta, v):
        return jax.nn.softmax(v - beta[None, :], axis=1)

    @custom_root(stationarity(dual))
    def solve(init, v, a, b):
        largest = jnp.max(jnp.where(jnp.isfinite(v), jnp.abs(v), 0))
        goal = 2 * jnp.finfo(v.dtype).eps * (1 + largest) * jnp.max(b)

        def lack(beta):
            return b - shares(beta, v).T @ a

        def unfinished(carry):
            _, size, step = carry
            return (step < max_steps) & ~(size <= goal)

        def advance(carry):
            beta, _, step = carry
            logs = jax.nn.log_softmax(v - beta[None, :], axis=1) + jnp.log(a)[:, None]
            beta = beta + jax.nn.logsumexp(logs, axis=0) - jnp.log(b)
            beta = beta - jnp.mean(beta)
            part = shares(beta, v)
            columns = part.T @ a
            hessian = jnp.diag(columns) - part.T @ (a[:, None] * part) + jnp.sum(b) / b.size**2
            gradient = lack(beta)
            direction = -jnp.linalg.solve(hessian, gradient)
            # A step of length zero is always good enough: Sinkhorn's step stays.
            lengths = jnp.append(0.5 ** jnp.arange(10, dtype=v.dtype), 0)
            values = jax.vmap(lambda length: dual(beta + length * direction, v, a, b))(lengths)
            enough = values <= values[-1] + 1e-4 * lengths * jnp.vdot(gradient, direction)
            moved = beta + lengths[jnp.argmax(enough)] * direction
            # Near the end the function is flat to rounding, and the gradient decides.
            sizes = [jnp.max(jnp.abs(lack(x))) for x in (beta, moved, beta + direction)]
            full = sizes[2] < jnp.minimum(sizes[0], sizes[1])
            beta = jnp.where(full, beta + direction, moved)
            return beta, jnp.where(full, sizes[2], sizes[1]), step + 1

        start = (init, jnp.array(jnp.inf, v.dtype), jnp.zeros((), jnp.int32))
        beta, size, _ = jax.lax.while_loop(unfinished, advance, start)
        beta = beta - jnp.mean(beta)
        return jnp.where(size <= 50 * goal, beta, jnp.nan)

    return a[:, None] * shares(solve(jnp.zeros_like(b), v, a, b), v)


def kl_birkhoff(v: jax.Array, *, max_steps: int = 200) -> jax.Array:
    """Projects ``exp(v)`` on the doubly stochastic matrices: :func:`kl_transport`, sums of one.

    Args:
        v: shape ``[n, n]``.
        max_steps: see :func:`kl_transport`.

    Returns:
        Shape ``[n, n]``.

    Raises:
        ValueError: if v is not square.

    >>> kl_birkhoff(jnp.zeros((2, 2))).round(4).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    ones = jnp.ones(v.shape[0], v.dtype)
    return kl_transport(v, ones, ones, max_steps=max_steps)
