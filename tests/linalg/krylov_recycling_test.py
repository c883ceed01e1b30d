"""GCRO-DR: right answers, and less work from system to system."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optlab.linalg import (
    Gmres,
    RecycledSpace,
    krylov_recycling,
    recycled_space,
    similarity_order,
    solve,
)

N, RANK, CYCLE = 60, 6, 14
rng = np.random.default_rng(0)
EIGENVALUES = np.concatenate([[0.01, 0.02, 0.05], np.linspace(1, 10, N - 3)])
_q = np.linalg.qr(rng.normal(size=(N, N)))[0]
MATRIX = jnp.asarray((_q * EIGENVALUES) @ _q.T, jnp.float32)
SKEW = jnp.asarray(np.triu(rng.normal(size=(N, N)), 1) * 0.05, jnp.float32)
B = jnp.asarray(rng.normal(size=N), jnp.float32)


@functools.partial(jax.jit, static_argnames="max_cycles")
def recycle(matrix, b, space, max_cycles=30):
    return krylov_recycling(
        lambda v: matrix @ v, b, space, cycle=CYCLE, rtol=1e-5, max_cycles=max_cycles
    )


@pytest.mark.parametrize("matrix", [MATRIX, MATRIX + SKEW - SKEW.T], ids=["symmetric", "not"])
def test_a_sequence_takes_ever_less_than_gmres(matrix):
    gmres = jax.jit(
        lambda m: solve(lambda v: m @ v, B, method=Gmres(RANK + CYCLE), rtol=1e-5)[1].iterations
    )
    space = recycled_space(B, RANK)
    counts = []
    for i in range(4):
        shifted = matrix + 0.002 * i * jnp.eye(N)
        x, info, space = recycle(shifted, B, space)
        counts.append(int(info.iterations))
        assert info.converged
        assert info.residual <= 1e-5
        np.testing.assert_allclose(
            x, np.linalg.solve(np.asarray(shifted, float), B), rtol=0, atol=2e-2
        )
        if i:
            assert counts[-1] < 0.7 * int(gmres(shifted))
    assert max(counts[1:]) < 0.7 * counts[0]


def test_the_space_is_that_of_the_smallest_eigenvalues():
    space = recycled_space(B, RANK)
    for _ in range(3):
        _, _, space = recycle(MATRIX, B, space)
    basis = np.linalg.qr(np.asarray(space.basis).T)[0]
    kept = np.linalg.norm(basis.T @ _q[:, :3], axis=0)
    np.testing.assert_allclose(kept, 1, atol=1e-2)


def test_an_exact_space_leaves_little_to_do():
    exact = RecycledSpace(jnp.asarray(_q[:, :RANK].T, jnp.float32))
    _, cold, _ = recycle(MATRIX, B, recycled_space(B, RANK))
    _, warm, _ = recycle(MATRIX, B, exact)
    assert warm.iterations < cold.iterations - 10


def test_trees_and_a_right_hand_side_of_zero():
    b = {"a": B[:10], "b": B[10:].reshape(5, 10)}

    def matvec(v):
        flat = MATRIX @ jnp.concatenate([v["a"], v["b"].ravel()])
        return {"a": flat[:10], "b": flat[10:].reshape(5, 10)}

    x, info, _ = krylov_recycling(matvec, b, recycled_space(b, 4), cycle=20, rtol=1e-4)
    assert info.converged
    np.testing.assert_allclose(matvec(x)["a"], b["a"], atol=2e-3)
    x, info, space = recycle(MATRIX, 0 * B, recycled_space(B, RANK))
    assert info.converged
    assert not x.any()
    assert jnp.isfinite(space.basis).all()


def test_what_is_not_solved_is_reported():
    _, info, _ = recycle(MATRIX, B, recycled_space(B, RANK), max_cycles=1)
    assert not info.converged
    singular = MATRIX.at[0].set(0)
    _, info, space = recycle(singular, B, recycled_space(B, RANK))
    assert not info.converged
    assert jnp.isfinite(space.basis).all()


def test_similarity_order_is_a_greedy_walk():
    features = jnp.asarray(rng.normal(size=(9, 2, 2)))
    order = np.asarray(similarity_order(features))
    assert sorted(order) == list(range(9))
    flat = np.asarray(features).reshape(9, 4)
    for i, j in zip(range(8), order[1:], strict=True):
        left = [k for k in range(9) if k not in order[: i + 1]]
        nearest = min(left, key=lambda k: np.sum((flat[k] - flat[order[i]]) ** 2))
        assert j == nearest


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"^rank must be below the size"):
        recycled_space(B, N)
    with pytest.raises(ValueError, match=r"^space must be of vectors of size 60"):
        recycle(MATRIX, B, RecycledSpace(jnp.zeros((2, 5))))
    with pytest.raises(ValueError, match=r"^cycle "):
        krylov_recycling(lambda v: v, B, recycled_space(B, 2), cycle=0)
