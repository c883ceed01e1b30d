"""Successive over-relaxation, and bandits that learn its parameter over a sequence of systems."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from optlab._checks import check_count, check_range
from optlab.base import PyTree
from optlab.linalg._solve import LinearInfo

__all__ = ["TunedSor", "TunedSorState", "sor", "tuned_sor"]


def sor(
    matrix: jax.Array,
    b: jax.Array,
    omega: float | jax.Array,
    *,
    x0: jax.Array | None = None,
    rtol: float = 1e-6,
    max_steps: int = 1000,
) -> tuple[jax.Array, LinearInfo]:
    r"""Solves a system by successive over-relaxation.

    .. math::
        x \leftarrow x + (D / \omega + L)^{-1} (b - A x)

    with D the diagonal of A and L what is below it. For symmetric positive definite matrices it
    converges for all :math:`0 < \omega < 2`, at a speed that depends on :math:`\omega` by orders of
    magnitude; one is the Gauss-Seidel method.

    Args:
        matrix: A, shape ``[n, n]``, with a diagonal without zeros.
        b: right-hand side, shape ``[n]``.
        omega: :math:`\omega`, may be traced.
        x0: where to start; None is zero.
        rtol: relative residual at which to stop.
        max_steps: bound of the steps.

    Returns:
        x, shape ``[n]``, and the account of it.

    Raises:
        ValueError: if ``matrix`` is not square, or a number is out of range.

    >>> x, info = sor(jnp.array([[2.0, 1.0], [1.0, 3.0]]), jnp.array([3.0, 4.0]), 1.1)
    >>> x.round(4).tolist(), bool(info.converged)
    ([1.0, 1.0], True)

    References:
        D. Young, "Iterative Methods for Solving Partial Difference Equations of Elliptic Type",
        Trans. AMS 1954
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"matrix must be square, got shape {matrix.shape}.")
    check_range("omega", omega, 0.0, 2.0, closed="()")
    check_range("rtol", rtol, 0.0, float("inf"), closed="()")
    check_count("max_steps", max_steps, 1)
    splitting = jnp.tril(matrix, -1) + jnp.diag(jnp.diagonal(matrix) / omega)
    x = jnp.zeros_like(b) if x0 is None else x0
    threshold = rtol * jnp.linalg.norm(b)

    def unfinished(carry):
        _, r, steps = carry
        return (steps < max_steps) & (jnp.linalg.norm(r) > threshold)

    def step(carry):
        x, r, steps = carry
        x = x + jax.scipy.linalg.solve_triangular(splitting, r, lower=True)
        return x, b - matrix @ x, steps + 1

    x, r, steps = jax.lax.while_loop(unfinished, step, (x, b - matrix @ x, jnp.int32(0)))
    norm = jnp.linalg.norm(b)
    residual = jnp.linalg.norm(r)
    relative = jnp.where(norm > 0, residual / jnp.where(norm > 0, norm, 1), residual)
    return x, LinearInfo(relative, steps, residual <= threshold)


class TunedSorState(NamedTuple):
    """What the bandit has seen; one row a parameter."""

    losses: jax.Array  # shape=(arms,): sums of losses over their probabilities
    gram: jax.Array  # shape=(arms, degree + 1, degree + 1): of the contexts' features
    moment: jax.Array  # shape=(arms, degree + 1): features times losses
    count: jax.Array  # shape=(), dtype=int32: systems so far


class TunedSor(NamedTuple):
    """A solver of sequences: ``init()``, and ``solve`` with a state.

    ``x, info, omega, state = solve(matrix, b, state, key=key, context=None)``.
    """

    init: Callable[[], TunedSorState]
    solve: Callable[..., tuple[jax.Array, LinearInfo, jax.Array, PyTree]]


def tuned_sor(
    omegas: Sequence[float],
    *,
    degree: int | None = None,
    contexts: tuple[float, float] = (0.0, 1.0),
    exploration: float = 20.0,
    rtol: float = 1e-6,
    max_steps: int = 1000,
) -> TunedSor:
    r"""Makes an SOR that learns :math:`\omega` from nothing but its numbers of iterations.

    Without contexts by Tsallis-INF, which approaches the best of the parameters in hindsight. With
    losses :math:`\ell`, iterations over ``max_steps``, and their sums, each divided by the
    probability of having been seen,

    .. math::
        p_i = \frac{4}{\eta^2 (\hat L_i - z)^2}, \quad \eta = \frac{2}{\sqrt t}, \qquad
        \hat L_i \leftarrow \hat L_i + \frac{\ell}{p_i} \; \text{for the i that was drawn}

    with z such that they sum to one. With a context c for each system (the shift, where
    :math:`A = A_0 + c I`) by regression: each parameter's loss is a polynomial in c of some degree,
    and the one that promises least is drawn unless the dice of inverse gaps want another. That
    approaches the best parameter of each system.

    Args:
        omegas: the parameters to choose from, each in (0, 2).
        degree: of the polynomials, in the Chebyshev basis; None for no contexts.
        contexts: the range of the contexts.
        exploration: weight of the gaps, growing as the root of t: the larger the less is explored.
        rtol, max_steps: see :func:`sor`.

    Returns:
        The solver.

    Raises:
        ValueError: if a parameter is out of range, or contexts are given where ``degree`` is None
            or the reverse.

    >>> import jax
    >>> solver = tuned_sor([1.0, 1.5])
    >>> matrix, b = jnp.array([[2.0, 1.0], [1.0, 3.0]]), jnp.array([3.0, 4.0])
    >>> x, info, omega, state = solver.solve(matrix, b, solver.init(), key=jax.random.key(0))
    >>> bool(info.converged), int(state.count)
    (True, 1)

    References:
        M. Khodak, E. Chow, M.-F. Balcan, A. Talwalkar, "Learning to Relax: Setting Solver
        Parameters Across a Sequence of Linear System Instances", ICLR 2024, arXiv:2310.02246;
        J. Zimmert, Y. Seldin, "Tsallis-INF: An Optimal Algorithm for Stochastic and Adversarial
        Bandits", JMLR 2021, arXiv:1807.07623

    Differs from the paper: the polynomials are fitted by ridge regression without a bound on their
    coefficients.
    """
    for omega in omegas:
        check_range("omegas", omega, 0.0, 2.0, closed="()")
    if degree is not None:
        check_count("degree", degree, 0)
    check_range("exploration", exploration, 0.0, float("inf"), closed="()")
    grid = jnp.asarray(omegas, float)
    features_count = 1 if degree is None else degree + 1

    def init():
        return TunedSorState(
            losses=jnp.zeros_like(grid),
            gram=jnp.zeros((grid.size, features_count, features_count), grid.dtype),
            moment=jnp.zeros((grid.size, features_count), grid.dtype),
            count=jnp.zeros((), jnp.int32),
        )

    def features(context):
        low, high = contexts
        angle = jnp.arccos(jnp.clip(2 * (context - low) / (high - low) - 1, -1, 1))
        return jnp.cos(jnp.arange(features_count) * angle).astype(grid.dtype)

    def solve(matrix, b, state, *, key, context=None):
        if (context is None) != (degree is None):
            raise ValueError("context must be given if and only if tuned_sor has a degree.")
        seen = jnp.ones(1, grid.dtype) if context is None else features(context)
        if degree is None:
            probabilities = _tsallis(state.losses, state.count)
        else:
            probabilities = _inverse_gaps(state, seen, exploration)
        arm = jax.random.choice(key, grid.size, p=probabilities)
        omega = grid[arm].astype(b.dtype)
        x, info = sor(matrix, b, omega, rtol=rtol, max_steps=max_steps)
        loss = (info.iterations / max_steps).astype(grid.dtype)
        state = TunedSorState(
            losses=state.losses.at[arm].add(loss / probabilities[arm]),
            gram=state.gram.at[arm].add(jnp.outer(seen, seen)),
            moment=state.moment.at[arm].add(loss * seen),
            count=state.count + 1,
        )
        return x, info, omega, state

    return TunedSor(init, solve)


def _tsallis(losses, count):
    """The probabilities of Tsallis-INF: Newton's method on their sum, from below."""
    eta = 2 / jnp.sqrt(count + 1.0)
    z = jnp.min(losses) - 2 * jnp.sqrt(losses.size) / eta  # here the sum is at most one

    def step(_, z):
        p = 4 / (eta * (losses - z)) ** 2
        return z - (jnp.sum(p) - 1) / (eta * jnp.sum(p**1.5))

    z = jax.lax.fori_loop(0, 30, step, z)
    p = 4 / (eta * (losses - z)) ** 2
    return p / jnp.sum(p)


def _inverse_gaps(state, seen, exploration):
    """The least promised loss, mixed with others by the inverse of what they promise more."""
    size = state.gram.shape[-1]
    ridge = 1e-3 * jnp.eye(size, dtype=seen.dtype)
    coefficients = jax.vmap(jnp.linalg.solve)(state.gram + ridge[None], state.moment)
    promised = coefficients @ seen
    best = jnp.argmin(promised)
    arms = promised.size
    gaps = promised - promised[best]
    p = 1 / (arms + exploration * jnp.sqrt(state.count + 1.0) * gaps)
    p = p.at[best].set(0)
    return p.at[best].set(1 - jnp.sum(p))
