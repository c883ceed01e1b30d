"""A bilevel problem of random quadratics, in rows, with its closed forms."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optlab.base import BilevelProblem

__all__ = ["QuadraticBilevel", "quadratic_bilevel"]


class QuadraticBilevel(NamedTuple):
    """A stochastic bilevel problem whose solution is known."""

    problem: BilevelProblem
    outer_data: jax.Array  # targets, shape=[rows, inner_size]
    inner_data: tuple  # matrices, couplings and offsets, each with a leading axis of rows
    inner_solution: Any  # x, shape=[outer_size] -> y*(x), shape=[inner_size]
    hypergradient: Any  # x -> gradient of outer(x, y*(x)), shape=[outer_size]
    solution: jax.Array  # x*, shape=[outer_size]


def quadratic_bilevel(
    key: jax.Array,
    *,
    rows: int = 64,
    inner_size: int = 6,
    outer_size: int = 3,
    penalty: float = 0.1,
    dtype: Any = jnp.float32,
) -> QuadraticBilevel:
    r"""Random quadratics, whose batches differ as much as their means.

    .. math::
        f(x, y) = \tfrac1N \sum_i \tfrac12 \|y - t_i\|^2 + \tfrac{\rho}{2} \|x\|^2, \qquad
        g(x, y) = \tfrac1N \sum_i \tfrac12 y^\top A_i y - (B_i x + c_i)^\top y

    With the means A, B, c, t over the rows, :math:`J = A^{-1} B` and :math:`y^*(x) = J x + A^{-1}
    c`, the hypergradient is :math:`J^\top (y^*(x) - t) + \rho x`. Any rows make a batch.

    Args:
        key: for all data.
        rows: N.
        inner_size: length of y.
        outer_size: length of x.
        penalty: :math:`\rho \ge 0`.
        dtype: of all arrays.

    Returns:
        The problem with its data and closed forms; the smallest eigenvalue of each
        :math:`A_i` is 0.5 or more.

    >>> made = quadratic_bilevel(jax.random.key(0))
    >>> bool(jnp.linalg.norm(made.hypergradient(made.solution)) < 1e-4)
    True
    """
    keys = jax.random.split(key, 4)
    factor = jax.random.normal(keys[0], (rows, inner_size, inner_size), dtype)
    floor = 0.5 * jnp.eye(inner_size, dtype=dtype)
    matrices = factor @ factor.mT / inner_size + floor[None]
    couplings = jax.random.normal(keys[1], (rows, inner_size, outer_size), dtype)
    offsets = jax.random.normal(keys[2], (rows, inner_size), dtype)
    targets = jax.random.normal(keys[3], (rows, inner_size), dtype)

    def outer(x, y, batch):
        distances = jax.vmap(lambda t: jnp.sum((y - t) ** 2))(batch)
        return 0.5 * jnp.mean(distances) + 0.5 * penalty * jnp.sum(x**2)

    def inner(x, y, batch):
        return jnp.mean(jax.vmap(lambda a, b, c: 0.5 * y @ a @ y - (b @ x + c) @ y)(*batch))

    a, b, c, t = (jnp.mean(v, axis=0) for v in (matrices, couplings, offsets, targets))
    jacobian, start = jnp.linalg.solve(a, b), jnp.linalg.solve(a, c)

    def inner_solution(x):
        return jacobian @ x + start

    def hypergradient(x):
        return jacobian.T @ (inner_solution(x) - t) + penalty * x

    normal = jacobian.T @ jacobian + penalty * jnp.eye(outer_size, dtype=dtype)
    return QuadraticBilevel(
        BilevelProblem(outer, inner),
        targets,
        (matrices, couplings, offsets),
        inner_solution,
        hypergradient,
        jnp.linalg.solve(normal, jacobian.T @ (t - start)),
    )
