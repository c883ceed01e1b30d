"""BSVRB on blocks of quadratics: its solution, and a noise floor that falls with I and B."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab.bilevel import bsvrb

M, Q, P = 12, 4, 3  # blocks, length of y, length of x
_RNG = np.random.default_rng(0)
_F = _RNG.standard_normal((M, Q, Q))
_A = np.eye(Q) + _F @ np.swapaxes(_F, 1, 2) / Q
A = jnp.asarray(_A / np.linalg.eigvalsh(_A).max(), jnp.float32)  # a smoothness of one
B, C, T = (
    jnp.asarray(scale * _RNG.standard_normal(shape), jnp.float32)
    for scale, shape in ((0.2, (M, Q, P)), (0.5, (M, Q)), (0.5, (M, Q)))
)
J, OFFSET = jnp.linalg.solve(A, B), jnp.linalg.solve(A, C[..., None])[..., 0]
SOLUTION = -jnp.linalg.solve(
    jnp.einsum("mqp,mqr->pr", J, J), jnp.einsum("mqp,mq->p", J, OFFSET - T)
)


def _gradient(x):
    return jnp.einsum("mqp,mq->p", J, jnp.einsum("mqp,p->mq", J, x) + OFFSET - T) / M


def _outer(x, y, batch):
    block, noise = batch
    return 0.5 * jnp.sum((y - T[block] - noise) ** 2)


def _inner(x, y, batch):
    block, noise = batch
    return 0.5 * y @ A[block] @ y - (B[block] @ x + C[block] + noise) @ y


@functools.cache
def _runner(drawn, dense):
    """A solver for so many blocks a step, and its compiled run over given draws."""
    tau = 0.5 * drawn / M
    solver = bsvrb(
        _outer,
        _inner,
        blocks=M,
        outer_optimizer=optax.sgd(0.01),
        inner_optimizer=optax.sgd(tau),
        linear_optimizer=None if dense else optax.sgd(tau),
        smallest_eigenvalue=0.05,
    )

    def step(state, draws):
        ids, *noise = draws
        state, _ = solver.step(state, *((ids, n) for n in noise), block_ids=ids)
        return state, jnp.linalg.norm(_gradient(state.x))

    return solver, jax.jit(lambda state, draws: jax.lax.scan(step, state, draws))


def _floor(drawn, samples, *, dense=False, steps=3000):
    """Mean norm of the true gradient over the last half of a run from the solution."""
    solver, run = _runner(drawn, dense)
    # Drawn by numpy: compiled with the step, the draws would cost more than the step.
    rng = np.random.default_rng(1)
    ids = np.argsort(rng.random((steps, M)), axis=1)[:, :drawn].astype(np.int32)
    noise = rng.standard_normal((2, steps, samples, drawn, Q), np.float32).mean(axis=2)
    state = solver.init(jax.random.key(0), SOLUTION, J @ SOLUTION + OFFSET)
    state, norms = run(state, (ids, *noise))
    return float(jnp.mean(norms[steps // 2 :])), state


def test_the_floor_falls_with_blocks_and_with_samples():
    floors = [_floor(*pair)[0] for pair in ((2, 1), (6, 1), (6, 8), (12, 8))]
    assert all(later < 0.8 * earlier for earlier, later in zip(floors, floors[1:], strict=False))
    assert floors[-1] < 0.1


def test_estimated_hessians_lead_to_the_same_solution():
    floor, state = _floor(12, 64, dense=True, steps=1000)
    assert floor < 0.1
    np.testing.assert_allclose(state.x, SOLUTION, atol=0.1)


def test_blocks_that_are_not_drawn_stay():
    solver = bsvrb(
        _outer,
        _inner,
        blocks=M,
        outer_optimizer=optax.adam(0.1),
        inner_optimizer=optax.adam(0.1),
        linear_optimizer=optax.adam(0.1),
    )
    state = solver.init(jax.random.key(0), jnp.ones(P), jnp.ones((M, Q)))
    ids = jnp.array([7, 2])
    batch = (ids, jnp.zeros((2, Q)))
    new, _ = jax.jit(solver.step)(state, batch, batch, block_ids=ids)
    moved = np.flatnonzero((np.asarray(new.y) != np.asarray(state.y)).any(1))
    assert moved.tolist() == [2, 7]
    assert np.flatnonzero(new.inner_optimizer[0].count).tolist() == [2, 7]


def test_bad_input_is_named():
    sgd = optax.sgd(0.1)
    solver = bsvrb(_outer, _inner, blocks=M, outer_optimizer=sgd, inner_optimizer=sgd)
    with pytest.raises(ValueError, match="y must have a leading axis of 12 blocks"):
        solver.init(jax.random.key(0), jnp.ones(P), jnp.ones((3, Q)))
    state = solver.init(jax.random.key(0), jnp.ones(P), jnp.ones((M, Q)))
    batch = (jnp.array([12]), jnp.zeros((1, Q)))
    with pytest.raises(ValueError, match="block_ids must be given"):
        solver.step(state, batch, batch)
    with pytest.raises(ValueError, match=r"block_ids must lie in \[0, 12\)"):
        solver.step(state, batch, batch, block_ids=jnp.array([12]))
    with pytest.raises(ValueError, match=r"block_ids must be a vector of integers, got int32\[\]"):
        solver.step(state, batch, batch, block_ids=3)
    with pytest.raises(ValueError, match="outer_batch must have a leading axis of 2, a row for"):
        solver.step(state, batch, batch, block_ids=jnp.array([3, 4]))


def test_ids_out_of_range_show_within_jit():
    sgd = optax.sgd(0.1)
    solver = bsvrb(
        _outer, _inner, blocks=M, outer_optimizer=sgd, inner_optimizer=sgd, linear_optimizer=sgd
    )
    state = solver.init(jax.random.key(0), jnp.ones(P), jnp.ones((M, Q)))

    @jax.jit
    def step(ids):
        batch = (ids % M, jnp.zeros((2, Q)))
        return solver.step(state, batch, batch, block_ids=ids)[0]

    assert bool(jnp.isfinite(step(jnp.array([3, 11])).x).all())
    assert bool(jnp.isnan(step(jnp.array([3, 12])).x).all())
