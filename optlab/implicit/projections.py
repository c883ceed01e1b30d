"""Projections that :mod:`optax.projections` lacks, Euclidean unless their names say KL."""

import jax
import jax.numpy as jnp
import optax

from optlab._checks import check_count
from optlab.implicit._kl_projections import check_sums, kl_birkhoff, kl_transport
from optlab.implicit._quadratic_program import quadratic_program
from optlab.implicit._root import custom_root
from optlab.implicit.conditions import stationarity
from optlab.linalg import safe_norm

__all__ = [
    "affine_set",
    "birkhoff",
    "box_section",
    "kl_birkhoff",
    "kl_transport",
    "polyhedron",
    "second_order_cone",
    "sparse_simplex",
    "transport",
]


def affine_set(v: jax.Array, A: jax.Array, b: jax.Array) -> jax.Array:
    r"""On :math:`\{x : A x = b\}`.

    Args:
        v: shape ``[n]``.
        A: shape ``[rows, n]``, of independent rows.
        b: shape ``[rows]``.

    Returns:
        Shape ``[n]``.

    Raises:
        TypeError: if shapes do not fit together.

    >>> affine_set(jnp.zeros(2), jnp.ones((1, 2)), jnp.ones(1)).round(4).tolist()
    [0.5, 0.5]
    """
    if jnp.ndim(v) != 1 or jnp.shape(A) != (*jnp.shape(b), *jnp.shape(v)):
        raise TypeError(
            f"A must have shape [rows, {jnp.size(v)}] and b [rows], got {list(jnp.shape(A))} and"
            f" {list(jnp.shape(b))}."
        )
    return v - A.T @ jnp.linalg.solve(A @ A.T, A @ v - b)


def polyhedron(
    v: jax.Array,
    A: jax.Array | None = None,
    b: jax.Array | None = None,
    G: jax.Array | None = None,
    h: jax.Array | None = None,
) -> jax.Array:
    r"""On :math:`\{x : A x = b, G x \le h\}`.

    Args:
        v: shape ``[n]``.
        A, b, G, h: see :func:`~optlab.implicit.quadratic_program`.

    Returns:
        Shape ``[n]``; for an empty set its derivative is NaN.

    >>> polyhedron(jnp.array([2.0, 2.0]), G=jnp.ones((1, 2)), h=jnp.ones(1)).round(4).tolist()
    [0.5, 0.5]
    """
    point, _ = quadratic_program(jnp.eye(v.shape[0], dtype=v.dtype), -v, A, b, G, h)
    return point.x


def box_section(
    v: jax.Array, low: jax.Array, high: jax.Array, w: jax.Array, c: jax.Array
) -> jax.Array:
    r"""On :math:`\{x : l \le x \le u, \; w^\top x = c\}`.

    The answer is :math:`\mathrm{clip}(v - \tau w, l, u)`, with :math:`\tau` between two
    breakpoints found by sorting, and there in closed form.

    Args:
        v: shape ``[n]``.
        low, high: l and u, shape ``[n]`` or scalars; finite.
        w: shape ``[n]``.
        c: scalar.

    Returns:
        Shape ``[n]``; where the set is empty, the corner that comes closest to it.

    >>> box_section(jnp.array([1.0, 0.0]), 0.0, 1.0, jnp.ones(2), 1.0).tolist()
    [1.0, 0.0]
    """
    low, high = jnp.broadcast_to(low, v.shape), jnp.broadcast_to(high, v.shape)

    def at(tau):
        return jnp.clip(v - tau * w, low, high)

    safe = jnp.where(w == 0, 1, w)
    edges = jnp.concatenate([jnp.where(w == 0, 0, (v - e) / safe) for e in (low, high)])
    edges = jnp.sort(jax.lax.stop_gradient(edges))
    totals = jax.lax.stop_gradient(jax.vmap(lambda tau: jnp.vdot(w, at(tau)))(edges))
    # Totals fall along the edges; the root lies between the last that is at least c and the next.
    index = jnp.clip(jnp.sum(totals >= c) - 1, 0, edges.size - 2)
    middle = 0.5 * (edges[index] + edges[index + 1])
    moved = v - middle * w
    free = jax.lax.stop_gradient((moved > low) & (moved < high) & (w != 0))
    fixed = jnp.where(free, 0, jnp.clip(moved, low, high))
    square = jnp.sum(jnp.where(free, w * w, 0))
    excess = jnp.vdot(w, fixed) + jnp.sum(jnp.where(free, w * v, 0)) - c
    tau = jnp.where(square > 0, excess / jnp.where(square > 0, square, 1), middle)
    return jnp.where(free, jnp.clip(v - tau * w, low, high), jnp.clip(moved, low, high))


def second_order_cone(v: jax.Array) -> jax.Array:
    r"""On :math:`\{(x, t) : \|x\|_2 \le t\}`, t the last entry.

    Args:
        v: shape ``[n]``.

    Returns:
        Shape ``[n]``.

    >>> second_order_cone(jnp.array([3.0, 4.0, 0.0])).round(4).tolist()
    [1.5, 2.0, 2.5]
    """
    x, t = v[:-1], v[-1]
    norm = safe_norm(x)
    half = 0.5 * (norm + t)
    edge = jnp.append(x * (half / jnp.where(norm > 0, norm, 1)), half)
    return jnp.where(norm <= t, v, jnp.where(norm <= -t, 0, edge))


def sparse_simplex(v: jax.Array, max_nonzeros: int, scale: float = 1.0) -> jax.Array:
    r"""On :math:`\{x \ge 0 : \mathbf 1^\top x = s, \; \|x\|_0 \le k\}`, which is not convex.

    The projection on the simplex of the k largest entries; of equal ones the first are taken.

    Args:
        v: shape ``[n]``.
        max_nonzeros: k, at most n.
        scale: s.

    Returns:
        Shape ``[n]``.

    Raises:
        ValueError: if ``max_nonzeros`` is out of range.

    >>> sparse_simplex(jnp.array([0.5, 0.25, 0.0]), 2).round(4).tolist()
    [0.625, 0.375, 0.0]

    References:
        A. Kyrillidis, S. Becker, V. Cevher, C. Koch, "Sparse Projections onto the Simplex", ICML
        2013, arXiv:1206.1529
    """
    check_count("max_nonzeros", max_nonzeros, 1)
    if max_nonzeros > v.shape[0]:
        raise ValueError(f"max_nonzeros must be at most {v.shape[0]}, got {max_nonzeros}.")
    largest, places = jax.lax.top_k(v, max_nonzeros)
    return jnp.zeros_like(v).at[places].set(optax.projections.projection_simplex(largest, scale))


def transport(v: jax.Array, a: jax.Array, b: jax.Array, *, max_steps: int = 100) -> jax.Array:
    r"""On the transport polytope :math:`\{X \ge 0 : X \mathbf 1 = a, \; X^\top \mathbf 1 = b\}`.

    The dual is smooth and without constraints, and the answer is
    :math:`\max(V - \alpha \mathbf 1^\top - \mathbf 1 \beta^\top, 0)`; semi-smooth Newton steps with
    a line search find it.

    Args:
        v: V, shape ``[rows, cols]``.
        a, b: shapes ``[rows]`` and ``[cols]``, not negative, of one sum.
        max_steps: bound of the Newton steps.

    Returns:
        Shape ``[rows, cols]``; NaN where ``max_steps`` did not suffice, as for sums that differ.
        Differentiable; in a and b along directions that keep their sums equal.

    Raises:
        ValueError: if the shapes do not suit each other.

    >>> transport(jnp.eye(2), jnp.ones(2), jnp.ones(2)).round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    References:
        M. Blondel, V. Seguy, A. Rolet, "Smooth and Sparse Optimal Transport", AISTATS 2018,
        arXiv:1710.06276

    Differs from the paper: Newton steps instead of L-BFGS.
    """
    check_sums(v, a, b)

    def plan(duals, v):
        alpha, beta = duals
        return jax.nn.relu(v - alpha[:, None] - beta[None, :])

    def dual(duals, v, a, b):
        alpha, beta = duals
        return 0.5 * jnp.sum(plan(duals, v) ** 2) + jnp.vdot(a, alpha) + jnp.vdot(b, beta)

    def newton_step(duals, v, a, b):
        x = plan(duals, v)
        support = (x > 0).astype(v.dtype)
        hessian = jnp.block(
            [[jnp.diag(support.sum(1)), support], [support.T, jnp.diag(support.sum(0))]]
        )
        # The dual is constant along (1, -1); a small multiple of the identity picks a direction.
        small = 10 * jnp.sqrt(jnp.finfo(v.dtype).eps)
        gradient = jnp.concatenate([a - x.sum(1), b - x.sum(0)])
        step = -jnp.linalg.solve(hessian + small * jnp.eye(gradient.size, dtype=v.dtype), gradient)
        return (step[: a.size], step[a.size :]), jnp.vdot(gradient, step), gradient

    # Where the plan has a zero, the dual's Hessian may be singular, and Newton's step at the
    # solution is noise: it tells nothing, so the loop itself says whether it is done.
    @custom_root(stationarity(dual), on_fail="ignore")
    def solve(init, v, a, b):
        goal = 50 * jnp.finfo(v.dtype).eps * (1 + jnp.max(jnp.abs(v)))

        def unfinished(carry):
            _, size, step = carry
            return (step < max_steps) & (size > goal)

        def advance(carry):
            duals, _, step = carry
            direction, slope, _ = newton_step(duals, v, a, b)
            lengths = 0.5 ** jnp.arange(20, dtype=v.dtype)

            def moved(length):
                return jax.tree.map(lambda d, s: d + length * s, duals, direction)

            values = jax.vmap(lambda length: dual(moved(length), v, a, b))(lengths)
            start = dual(duals, v, a, b)
            slack = 4 * jnp.finfo(v.dtype).eps * jnp.abs(start)
            enough = values <= start + 1e-4 * lengths * slope + slack
            duals = moved(lengths[jnp.argmax(enough)])
            return duals, jnp.max(jnp.abs(newton_step(duals, v, a, b)[2])), step + 1

        start = (init, jnp.array(jnp.inf, v.dtype), jnp.zeros((), jnp.int32))
        duals, size, _ = jax.lax.while_loop(unfinished, advance, start)
        return jax.tree.map(lambda d: jnp.where(size <= 1e3 * goal, d, jnp.nan), duals)

    # Started inside, where every entry of the plan is positive.
    shift = jnp.min(jax.lax.stop_gradient(v)) - 1
    return plan(solve((jnp.full_like(a, shift), jnp.zeros_like(b)), v, a, b), v)


def birkhoff(v: jax.Array, *, max_steps: int = 100) -> jax.Array:
    """On the doubly stochastic matrices: :func:`transport` with sums of one.

    Args:
        v: shape ``[n, n]``.
        max_steps: see :func:`transport`.

    Returns:
        Shape ``[n, n]``.

    >>> birkhoff(jnp.zeros((2, 2))).round(4).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    ones = jnp.ones(v.shape[0], v.dtype)
    return transport(v, ones, ones, max_steps=max_steps)
