"""Krylov methods and the Neumann series on pytrees, one product with A a step."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab.base import PyTree, Scalar

__all__ = [
    "Run",
    "biconjugate_gradient",
    "conjugate_gradient",
    "minimum_residual",
    "neumann_series",
    "run_of",
]

Map = Callable[[PyTree], PyTree]


class Run(NamedTuple):
    """What a method hands back: its answer, and what it learnt about A on the way."""

    x: PyTree  # like b
    steps: jax.Array  # shape=(), dtype=int32
    norm: Scalar  # a lower bound of the norm of A; zero where the method learns none


def run_of(x: PyTree, steps) -> Run:
    """The run of a method that learns nothing of the norm of A."""
    dtype = jnp.result_type(*jax.tree.leaves(x))
    return Run(x, jnp.asarray(steps, jnp.int32), jnp.zeros((), dtype))


def _divide(a: Scalar, b: Scalar) -> Scalar:
    return a / jnp.where(b == 0, 1, b)


def conjugate_gradient(
    product: Map, b: PyTree, threshold: Scalar, max_steps: jax.Array, preconditioner: Map | None
) -> Run:
    """Solves a positive definite system; stops where the curvature is not positive.

    The residual is the recursive one, whose norm falls below every threshold also in float32.
    Putting the true one in its place, as lineax's CG does, breaks the conjugacy of the directions:
    past the attainable accuracy of float32 the iterates then diverge.

    The directions are kept divided by the square of their residual, q = p / (r z), which makes the
    recursion ``q + z / (r z)`` and the step ``q / (q A q)``. That saves a third of the kernels of a
    step, which on a small system are what it costs. For the range of q, b is scaled to one.
    """
    dot = optax.tree.vdot
    plain = preconditioner is None
    eps = jnp.finfo(jnp.result_type(*jax.tree.leaves(b))).eps
    size = optax.tree.norm(b)
    size = jnp.where(size > 0, size, 1)
    # Long past all accuracy, but before 1 / (r z) overflows.
    smallest = jnp.maximum(threshold / size, eps**2)

    class State(NamedTuple):
        x: PyTree
        r: PyTree
        z: PyTree  # preconditioned r; None where that is r
        q: PyTree  # the last direction
        rz: Scalar  # r z
        square: Scalar | None  # r r; None where that is r z
        curvature: Scalar  # q A q
        norm: Scalar
        step: jax.Array

    def state(x, r, q, curvature, norm, step):
        z = None if plain else preconditioner(r)
        rz = dot(r, r if plain else z)
        return State(x, r, z, q, rz, None if plain else dot(r, r), curvature, norm, step)

    def unfinished(s):
        error = jnp.sqrt(s.rz if plain else s.square)
        more = (s.curvature > 0) & (s.step < max_steps) & (error > smallest)
        # A preconditioner may be singular: it then shows no more of r while r is still large.
        return more if plain else more & (jnp.abs(s.rz) > eps**4 * jnp.abs(first.rz))

    def step(s):
        q = optax.tree.add_scale(s.q, 1 / s.rz, s.r if plain else s.z)
        aq = product(q)
        curvature = dot(q, aq)
        length = jnp.where(curvature > 0, 1 / curvature, 0)
        x = optax.tree.add_scale(s.x, length, q)
        r = optax.tree.add_scale(s.r, -length, aq)
        # Quotients of A: of r at most, which is not below that of q, and of q.
        norm = jnp.maximum(s.norm, curvature * s.rz if plain else curvature / dot(q, q))
        return state(x, r, q, curvature, norm, s.step + 1)

    zeros = optax.tree.zeros_like(b)
    one = jnp.ones_like(size)
    first = state(zeros, optax.tree.scale(1 / size, b), zeros, one, 0 * one, jnp.int32(0))
    end = jax.lax.while_loop(unfinished, step, first)
    return Run(optax.tree.scale(size, end.x), end.step, end.norm)


def minimum_residual(product: Map, b: PyTree, threshold: Scalar, max_steps: jax.Array) -> Run:
    """Solves a symmetric system, indefinite ones too: Lanczos with Givens rotations.

    The residual norm is the recurrence's; on a singular consistent system it still converges.
    """
    beta = optax.tree.norm(b)
    unit = optax.tree.scale(_divide(jnp.ones_like(beta), beta), b)
    zeros = optax.tree.zeros_like(b)
    zero, one = jnp.zeros_like(beta), jnp.ones_like(beta)

    class State(NamedTuple):
        x: PyTree
        v_old: PyTree  # the last two Lanczos vectors
        v: PyTree
        w_old: PyTree  # the last two directions
        w: PyTree
        beta: Scalar  # couples v_old and v
        rotations: tuple  # cosine and sine of the last rotation, and of the one before
        residual: Scalar  # signed
        norm: Scalar
        step: jax.Array

    def unfinished(s):
        return (s.step < max_steps) & (jnp.abs(s.residual) > threshold)

    def step(s):
        av = product(s.v)
        alpha = optax.tree.vdot(s.v, av)
        rest = optax.tree.add_scale(optax.tree.add_scale(av, -alpha, s.v), -s.beta, s.v_old)
        beta = optax.tree.norm(rest)
        (c, d), (c_old, d_old) = s.rotations
        # The new column of the tridiagonal matrix under the last two rotations, then its own.
        epsilon = d_old * s.beta
        delta = c * c_old * s.beta + d * alpha
        gamma = c * alpha - d * c_old * s.beta
        length = jnp.sqrt(gamma**2 + beta**2)
        c_new, d_new = _divide(gamma, length), _divide(beta, length)
        w = optax.tree.add_scale(optax.tree.add_scale(s.v, -delta, s.w), -epsilon, s.w_old)
        w = optax.tree.scale(_divide(one, length), w)
        x = optax.tree.add_scale(s.x, c_new * s.residual, w)
        v = optax.tree.scale(_divide(one, beta), rest)
        norm = jnp.maximum(s.norm, jnp.sqrt(alpha**2 + s.beta**2 + beta**2))
        # A column of zeros is a singular matrix: nothing more can be gained.
        left = jnp.where(length == 0, 0, -d_new * s.residual)
        rotations = ((c_new, d_new), (c, d))
        return State(x, s.v, v, s.w, w, beta, rotations, left, norm, s.step + 1)

    start = State(
        zeros, zeros, unit, zeros, zeros, zero, ((one, zero), (one, zero)), beta, zero,
        jnp.zeros((), jnp.int32),
    )  # fmt: skip
    end = jax.lax.while_loop(unfinished, step, start)
    return Run(end.x, end.step, end.norm)


def biconjugate_gradient(
    product: Map, b: PyTree, threshold: Scalar, max_steps: jax.Array, preconditioner: Map | None
) -> Run:
    """Solves any square system by BiCGStab, preconditioned on the right.

    lineax's takes a negative coefficient for a breakdown where x64 is off, and then gives up at the
    first. Here only a zero or a NaN is one: then the last finite iterate is kept.
    """
    precondition = preconditioner or (lambda r: r)
    dot = optax.tree.vdot

    def unfinished(state):
        _, r, _, _, step, alive = state
        return alive & (step < max_steps) & (optax.tree.norm(r) > threshold)

    def step(state):
        x, r, p, rho, step, _ = state
        p_hat = precondition(p)
        v = product(p_hat)
        alpha = rho / dot(b, v)
        s = optax.tree.add_scale(r, -alpha, v)
        s_hat = precondition(s)
        t = product(s_hat)
        omega = _divide(dot(t, s), dot(t, t))
        x_new = optax.tree.add_scale(optax.tree.add_scale(x, alpha, p_hat), omega, s_hat)
        r_new = optax.tree.add_scale(s, -omega, t)
        rho_new = dot(b, r_new)
        beta = rho_new / rho * (alpha / omega)
        p = optax.tree.add_scale(r_new, beta, optax.tree.add_scale(p, -omega, v))
        # The last step of an exact solve has omega = rho = 0: its x counts, and no step follows.
        sound = jnp.isfinite(alpha) & jnp.isfinite(omega)
        alive = sound & jnp.isfinite(beta) & (rho_new != 0)
        x, r = (
            jax.tree.map(lambda new, old: jnp.where(sound, new, old), *pair)
            for pair in ((x_new, x), (r_new, r))
        )
        return x, r, p, rho_new, step + 1, alive

    start = (optax.tree.zeros_like(b), b, b, dot(b, b), jnp.zeros((), jnp.int32), jnp.array(True))
    x, _, _, _, steps, _ = jax.lax.while_loop(unfinished, step, start)
    return run_of(x, steps)


def neumann_series(
    product: Map, b: PyTree, threshold: Scalar, max_steps: jax.Array, step_size: float
) -> Run:
    """Sums ``step_size * (I - step_size * A)^k b``; the next term is the residual, so it stops."""

    def unfinished(state):
        _, r, step = state
        return (step < max_steps) & (optax.tree.norm(r) > threshold)

    def step(state):
        x, r, step = state
        x = optax.tree.add_scale(x, step_size, r)
        return x, optax.tree.add_scale(r, -step_size, product(r)), step + 1

    start = (optax.tree.zeros_like(b), b, jnp.zeros((), jnp.int32))
    x, _, steps = jax.lax.while_loop(unfinished, step, start)
    return run_of(x, steps)
