"""Sequences of related systems, and what learned and recycled solvers make of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from optlab.linalg import (
    Gmres,
    deep_conjugate_direction,
    direction_loss,
    krylov_recycling,
    recycled_space,
    ritz_samples,
    similarity_order,
    solve,
    sor,
    tuned_sor,
)

__all__ = ["directions", "hessians", "poisson", "recycling", "relaxation"]


def poisson(field: jax.Array, u: jax.Array) -> jax.Array:
    """Applies ``-div(k grad u)`` with zero boundary values.

    Args:
        field: k > 0 on the cells, ``[side, side]``.
        u: ``[side, side]``.

    Returns:
        An array like u.
    """
    k = jnp.pad(field, 1, mode="edge")
    padded = jnp.pad(u, 1)
    out = jnp.zeros_like(u)
    centre = slice(1, -1)
    for rows, columns in (
        (slice(2, None), centre),
        (slice(None, -2), centre),
        (centre, slice(2, None)),
        (centre, slice(None, -2)),
    ):
        between = 0.5 * (k[rows, columns] + field)
        out = out + between * (u - padded[rows, columns])
    return out


def fields(key: jax.Array, count: int, side: int) -> tuple[jax.Array, jax.Array]:
    """Smooth random conductivities, and the parameters they depend on."""
    parameters = jax.random.normal(key, (count, 4))
    s = (jnp.arange(side) + 0.5) / side
    modes = jnp.stack(
        [jnp.outer(jnp.cos(jnp.pi * i * s), jnp.cos(jnp.pi * j * s)) for i, j in
         ((1, 0), (0, 1), (1, 1), (2, 1))]
    )  # fmt: skip
    return jnp.exp(0.5 * jnp.tensordot(parameters, modes, 1)), parameters


def recycling(count: int, side: int = 32, rank: int = 20, cycle: int = 30) -> dict[str, list]:
    """Products with the matrix a system, for Poisson problems with varying conductivity.

    Args:
        count: systems.
        side: of the grid.
        rank: directions that are kept.
        cycle: steps of a cycle, of GMRES rank + cycle: the same memory.

    Returns:
        A list for each method.
    """
    all_fields, parameters = fields(jax.random.key(0), count, side)
    b = jnp.ones((side, side))
    options = {"rtol": 1e-5}

    @jax.jit
    def plain(field):
        matvec = functools.partial(poisson, field)
        return solve(matvec, b, method=Gmres(rank + cycle), max_steps=5000, **options)[1].iterations

    @jax.jit
    def recycled(space, field):
        matvec = functools.partial(poisson, field)
        _, info, space = krylov_recycling(matvec, b, space, cycle=cycle, **options)
        return space, info.iterations

    @jax.jit
    def symmetric(field):
        return solve(functools.partial(poisson, field), b, **options)[1].iterations

    space = recycled_space(b, rank)
    order = similarity_order(parameters)
    return {
        "conjugate gradients": [int(symmetric(field)) for field in all_fields],
        f"GMRES({rank + cycle}), in whole cycles": [int(plain(field)) for field in all_fields],
        "recycling, as they come": np.asarray(
            jax.lax.scan(recycled, space, all_fields)[1]
        ).tolist(),
        "recycling, sorted": np.asarray(
            jax.lax.scan(recycled, space, all_fields[order])[1]
        ).tolist(),
    }


def hessians(problem, count: int, rank: int = 8) -> dict[str, list]:
    """Products with the Hessian a system, along a path of the outer variables.

    Args:
        problem: a golden problem; its inner Hessian is taken at its y.
        count: systems.
        rank: directions that are kept; GMRES has the same memory.

    Returns:
        A list for each method.
    """
    b = jax.grad(problem.outer, 1)(problem.x, problem.y, problem.outer_batch)
    xs = problem.x[None, :] + 0.05 * jnp.arange(count, dtype=b.dtype)[:, None]
    gradient = jax.grad(problem.inner, 1)
    cycle = b.size - rank - 2 if b.size < 40 else 20
    options = {"rtol": 1e-5}

    def product(x):
        return lambda v: jax.jvp(lambda y: gradient(x, y, problem.inner_batch), (problem.y,), (v,))[
            1
        ]

    @jax.jit
    def plain(x):
        return solve(product(x), b, method=Gmres(rank + cycle), max_steps=3000, **options)[
            1
        ].iterations

    @jax.jit
    def recycled(space, x):
        _, info, space = krylov_recycling(product(x), b, space, cycle=cycle, **options)
        return space, info.iterations

    symmetric = jax.jit(lambda x: solve(product(x), b, **options)[1].iterations)
    space = recycled_space(b, rank)
    return {
        "conjugate gradients": [int(symmetric(x)) for x in xs],
        f"GMRES({rank + cycle}), in whole cycles": [int(plain(x)) for x in xs],
        "recycling": np.asarray(jax.lax.scan(recycled, space, xs)[1]).tolist(),
    }


def relaxation(count: int, side: int = 12) -> dict[str, list]:
    """Iterations a system of SOR, for Poisson matrices with random shifts.

    Args:
        count: systems.
        side: of the grid.

    Returns:
        A list for each method.
    """
    size = side * side
    flat = lambda v: poisson(jnp.ones((side, side)), v.reshape(side, side)).ravel()  # noqa: E731
    laplacian = jax.vmap(flat)(jnp.eye(size))
    shift_key, b_key = jax.random.split(jax.random.key(1))
    shifts = 0.5 * jax.random.uniform(shift_key, (count,)) ** 2
    bs = jax.random.normal(b_key, (count, size))
    omegas = tuple(float(w) for w in np.linspace(1.0, 1.9, 10))
    options = {"rtol": 1e-6, "max_steps": 400}

    def matrix(shift):
        return laplacian + shift * jnp.eye(size)

    def fixed(omega):
        one = lambda c, b: sor(matrix(c), b, omega, **options)[1].iterations  # noqa: E731
        return jax.lax.map(lambda pair: one(*pair), (shifts, bs))

    everything = np.stack([np.asarray(jax.jit(fixed)(omega)) for omega in omegas])
    keys = jax.random.split(jax.random.key(2), count)

    def learnt(solver, contextual):
        def step(state, inputs):
            shift, b, key = inputs
            context = shift if contextual else None
            _, info, _, state = solver.solve(matrix(shift), b, state, key=key, context=context)
            return state, info.iterations

        run = jax.jit(lambda: jax.lax.scan(step, solver.init(), (shifts, bs, keys))[1])
        return np.asarray(run()).tolist()

    best = int(everything.sum(axis=1).argmin())
    contextual = tuned_sor(omegas, degree=3, contexts=(0.0, 0.5), **options)
    return {
        "omega = 1 (Gauss-Seidel)": everything[0].tolist(),
        "bandit": learnt(tuned_sor(omegas, **options), False),
        "contextual bandit": learnt(contextual, True),
        f"best fixed omega ({omegas[best]:.1f}), known": everything[best].tolist(),
        "best omega of each system, known": everything.min(axis=0).tolist(),
    }


class DirectionNetwork(nnx.Module):
    """A linear pyramid of convolutions without biases: what a multigrid cycle looks like."""

    def __init__(self, levels: int, features: int, rngs: nnx.Rngs):
        conv = functools.partial(nnx.Conv, kernel_size=(3, 3), use_bias=False, rngs=rngs)
        self.enter = nnx.List([conv(1, features) for _ in range(levels)])
        self.mix = nnx.List([conv(features, features) for _ in range(levels)])
        self.leave = nnx.List([conv(features, 1) for _ in range(levels)])
        self.smooth = nnx.List([conv(1, 1) for _ in range(levels)])

    def __call__(self, r):
        side = r.shape[0]
        out = jnp.zeros((1, 1, 1, 1))
        for level in reversed(range(len(self.enter))):
            width = side >> level
            block = 1 << level
            coarse = r.reshape(width, block, width, block).mean(axis=(1, 3))[None, :, :, None]
            z = self.leave[level](self.mix[level](self.enter[level](coarse)))
            if out.shape[1] > 1:
                out = jax.image.resize(out, (1, width, width, 1), "linear")
                out = out + self.smooth[level](out)
            out = z if out.shape[1] == 1 else out + z
        return r + out[0, :, :, 0]


def directions(count: int, side: int = 32, steps: int = 2000) -> dict[str, list]:
    """Iterations a right-hand side, of conjugate gradients and of trained directions.

    Args:
        count: right-hand sides, none of them seen in training.
        side: of the grid, a power of two.
        steps: of training.

    Returns:
        A list for each method.
    """
    matvec = functools.partial(poisson, jnp.ones((side, side)))
    flat = lambda v: matvec(v.reshape(side, side)).ravel()  # noqa: E731
    start_key, sample_key, test_key = jax.random.split(jax.random.key(3), 3)
    start = jax.random.normal(start_key, (side * side,))
    samples = ritz_samples(flat, start, 2048, key=sample_key, rank=200)
    samples = samples.reshape(-1, side, side)

    levels = side.bit_length() - 2
    graph, params = nnx.split(DirectionNetwork(levels, 8, nnx.Rngs(0)))
    apply = lambda params, r: nnx.merge(graph, params)(r)  # noqa: E731
    tx = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    def loss(params, batch):
        one = lambda r: direction_loss(matvec, functools.partial(apply, params), r)  # noqa: E731
        return jnp.mean(jax.vmap(one)(batch))

    @jax.jit
    def train(params):
        def step(carry, t):
            params, state = carry
            batch = jax.lax.dynamic_slice_in_dim(samples, (16 * t) % 2048, 16)
            grads = jax.grad(loss)(params, batch)
            updates, state = tx.update(grads, state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))[0][0]

    params = train(params)

    @jax.jit
    def learnt(b):
        return deep_conjugate_direction(matvec, b, functools.partial(apply, params), rtol=1e-5)[
            1
        ].iterations

    plain = jax.jit(lambda b: solve(matvec, b, rtol=1e-5)[1].iterations)
    bs = jax.random.normal(test_key, (count, side, side))
    return {
        "conjugate gradients": [int(plain(b)) for b in bs],
        "learned directions": [int(learnt(b)) for b in bs],
    }
