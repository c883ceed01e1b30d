"""Small dense quadratic programs, thousands at a time under vmap."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from optlab._checks import check_count
from optlab.implicit import conditions
from optlab.implicit._root import custom_root
from optlab.implicit.conditions import KktPoint

__all__ = ["QpInfo", "quadratic_program"]


class QpInfo(NamedTuple):
    """How :func:`quadratic_program` ended."""

    steps: jax.Array  # shape=(), dtype=int32
    residual: jax.Array  # the largest entry of the KKT conditions, shape=()
    converged: jax.Array  # shape=(), dtype=bool; False for an infeasible or unbounded program


class _Iterate(NamedTuple):
    x: jax.Array  # [n]
    nu: jax.Array  # [equalities]
    lam: jax.Array  # [inequalities], positive
    slack: jax.Array  # [inequalities], positive


def quadratic_program(
    Q: jax.Array,
    c: jax.Array,
    A: jax.Array | None = None,
    b: jax.Array | None = None,
    G: jax.Array | None = None,
    h: jax.Array | None = None,
    *,
    max_steps: int = 50,
    on_fail: str = "nan",
) -> tuple[KktPoint, QpInfo]:
    r"""Solves a convex quadratic program, differentiably in all its data.

    .. math:: \min_x \tfrac12 x^\top Q x + c^\top x \quad\text{where}\quad A x = b, \; G x \le h

    A primal-dual interior-point method with Mehrotra's corrector, dense factorizations of size
    n + equalities, then Newton steps on the KKT conditions with the active set that it found, which
    bring the answer to rounding. The derivative is that of the KKT conditions
    (:func:`~optlab.implicit.conditions.qp`). Meant for small programs and for ``vmap``.

    Args:
        Q: shape ``[n, n]``, positive semi-definite; its symmetric part is taken.
        c: shape ``[n]``.
        A, b: shapes ``[equalities, n]`` and ``[equalities]``, of independent rows; or None.
        G, h: shapes ``[inequalities, n]`` and ``[inequalities]``; or None.
        max_steps: bound of the interior-point steps.
        on_fail: see :func:`~optlab.implicit.custom_root`; an infeasible program is an unsolved one.

    Returns:
        The solution with its multipliers, and how it was found. Where an active constraint has a
        zero multiplier the derivative is one-sided.

    Raises:
        TypeError: if shapes do not fit together, or one of a pair is missing.

    >>> point, info = quadratic_program(jnp.eye(2), jnp.array([-2.0, 0.0]),
    ...                                 G=jnp.eye(2), h=jnp.ones(2))
    >>> point.x.round(4).tolist(), point.inequality.round(4).tolist()
    ([1.0, 0.0], [1.0, 0.0])

    References:
        S. Mehrotra, "On the Implementation of a Primal-Dual Interior Point Method", SIAM J. Optim.
        1992; B. Amos, J. Kolter, "OptNet: Differentiable Optimization as a Layer in Neural
        Networks", ICML 2017, arXiv:1703.00443

    Differs from the papers: the final Newton steps.
    """
    check_count("max_steps", max_steps, 1)
    _check_shapes(Q, c, A, b, G, h)

    @custom_root(conditions.qp(), linear_solver="lu", on_fail=on_fail, has_aux=True)
    def solve(init, Q, c, A, b, G, h):
        del init
        return _solve(Q, c, A, b, G, h, max_steps)

    return solve(None, 0.5 * (Q + Q.T), c, A, b, G, h)


def _solve(Q, c, A, b, G, h, max_steps):
    n, dtype = c.shape[0], c.dtype
    eps = jnp.finfo(dtype).eps
    A_full = jnp.zeros((0, n), dtype) if A is None else A
    b_full = jnp.zeros(0, dtype) if b is None else b
    G_full = jnp.zeros((0, n), dtype) if G is None else G
    h_full = jnp.zeros(0, dtype) if h is None else h
    p, m = A_full.shape[0], G_full.shape[0]
    scale = 1 + jnp.max(jnp.abs(Q), initial=0.0)
    # Enough for a factor to exist where Q is singular; the last steps are free of it.
    ridge = jnp.concatenate([jnp.full(n, 1.0, dtype), jnp.full(p, -1.0, dtype)]) * (8 * eps * scale)

    def newton_system(weights):
        top = Q + (G_full.T * weights[None, :]) @ G_full
        matrix = jnp.block([[top, A_full.T], [A_full, jnp.zeros((p, p), dtype)]])
        return jax.scipy.linalg.lu_factor(matrix + jnp.diag(ridge))

    def direction(factor, z, r, complementarity):
        """Newton's step with ``slack * lam`` driven to ``slack * lam - complementarity``."""
        dual, equal, unequal = r
        shift = (-complementarity + z.lam * unequal) / z.slack
        right = jnp.concatenate([-dual - G_full.T @ shift, -equal])
        step = jax.scipy.linalg.lu_solve(factor, right)
        dx, dnu = step[:n], step[n:]
        dslack = -unequal - G_full @ dx
        dlam = shift + (z.lam / z.slack) * (G_full @ dx)
        return _Iterate(dx, dnu, dlam, dslack)

    def residuals(z):
        dual = Q @ z.x + c + A_full.T @ z.nu + G_full.T @ z.lam
        return dual, A_full @ z.x - b_full, G_full @ z.x + z.slack - h_full

    def reach(z, d):
        """The longest step that keeps slack and multipliers positive."""
        ratios = [
            jnp.min(jnp.where(dv < 0, -v / jnp.where(dv < 0, dv, 1), jnp.inf), initial=jnp.inf)
            for v, dv in ((z.slack, d.slack), (z.lam, d.lam))
        ]
        return jnp.minimum(1.0, jnp.minimum(*ratios))

    def gap(z):
        return jnp.vdot(z.slack, z.lam) / max(m, 1)

    def size(z):
        return jnp.max(
            jnp.stack([gap(z), *(jnp.max(jnp.abs(r), initial=0.0) for r in residuals(z))])
        )

    data_size = 1 + jnp.max(jnp.abs(jnp.concatenate([c, b_full, h_full])))
    goal = (1e-9 if dtype == jnp.float64 else 1e-5) * data_size

    def unfinished(carry):
        z, _, step = carry
        return (step < max_steps) & (size(z) > goal)

    def advance(carry):
        z, best, step = carry
        r, mu = residuals(z), gap(z)
        factor = newton_system(z.lam / z.slack)
        predicted = direction(factor, z, r, z.slack * z.lam)
        length = reach(z, predicted)
        ahead = jax.tree.map(lambda v, d: v + length * d, z, predicted)
        center = (gap(ahead) / jnp.where(mu > 0, mu, 1)) ** 3
        complementarity = z.slack * z.lam + predicted.slack * predicted.lam - center * mu
        d = direction(factor, z, r, complementarity)
        length = 0.99 * reach(z, d)
        z = jax.tree.map(lambda v, d: v + length * d, z, d)
        # Late steps can lose what rounding lets no step regain; a NaN ends it.
        better, sound = size(z) < size(best), jnp.isfinite(size(z))
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), z, best)
        return z, best, jnp.where(sound, step + 1, max_steps)

    z, steps = _start(Q, c, A_full, b_full, G_full, h_full, newton_system), jnp.zeros((), jnp.int32)
    if m:  # without inequalities the start is the solution
        _, z, steps = jax.lax.while_loop(unfinished, advance, (z, z, steps))
    point = KktPoint(z.x, None if A is None else z.nu, None if G is None else z.lam)
    point, residual = _polish(point, (Q, c, A, b, G, h))
    return point, QpInfo(steps, residual, residual <= 100 * goal)


def _start(Q, c, A, b, G, h, newton_system):
    """The least-squares point of the constraints, with slacks and multipliers pushed inside."""
    n, m = c.shape[0], h.shape[0]
    factor = newton_system(jnp.ones(m, c.dtype))
    step = jax.scipy.linalg.lu_solve(factor, jnp.concatenate([G.T @ h - c, b]))
    x, nu = step[:n], step[n:]
    slack = h - G @ x

    def inside(v):
        lowest = jnp.min(v, initial=jnp.inf)
        return jnp.where(lowest > 0, v, v - lowest + 1)

    return _Iterate(x, nu, inside(-slack), inside(slack))


def _polish(point, data, rounds=6):
    """Newton's steps on the KKT conditions; the best point of all is kept."""
    flat, unravel = ravel_pytree(point)

    def residual(v):
        return ravel_pytree(conditions.qp()(unravel(v), *data))[0]

    def size(v):
        return jnp.max(jnp.abs(residual(v)))

    def improve(_, carry):
        v, best = carry
        v = v - jnp.linalg.solve(jax.jacfwd(residual)(v), residual(v))
        return v, jnp.where(size(v) < size(best), v, best)

    _, best = jax.lax.fori_loop(0, rounds, improve, (flat, flat))
    return unravel(best), size(best)


def _check_shapes(Q: Any, c: Any, A: Any, b: Any, G: Any, h: Any) -> None:
    if jnp.ndim(c) != 1 or jnp.shape(Q) != (c.shape[0],) * 2:
        raise TypeError(
            f"Q must have shape [n, n] and c [n], got {list(jnp.shape(Q))} and"
            f" {list(jnp.shape(c))}."
        )
    for names, matrix, vector in (("A and b", A, b), ("G and h", G, h)):
        if (matrix is None) != (vector is None):
            raise TypeError(f"{names} go together: give both or neither.")
        if matrix is not None and (
            jnp.ndim(vector) != 1 or jnp.shape(matrix) != (vector.shape[0], c.shape[0])
        ):
            raise TypeError(
                f"{names} must have shapes [rows, {c.shape[0]}] and [rows], got"
                f" {list(jnp.shape(matrix))} and {list(jnp.shape(vector))}."
            )
