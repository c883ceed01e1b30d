"""Learned directions: CG is a special case, and better directions take fewer steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optlab.linalg import deep_conjugate_direction, direction_loss, ritz_samples, solve

N = 40
rng = np.random.default_rng(0)
_q = np.linalg.qr(rng.normal(size=(N, N)))[0]
MATRIX = jnp.asarray((_q * np.geomspace(0.01, 1, N)) @ _q.T, jnp.float32)
B = jnp.asarray(rng.normal(size=N), jnp.float32)


def matvec(v):
    return MATRIX @ v


@functools.partial(jax.jit, static_argnums=0, static_argnames=("max_steps", "history"))
def run(direction, max_steps=200, history=2):
    return deep_conjugate_direction(
        matvec, B, direction, max_steps=max_steps, history=history, rtol=1e-5
    )


def test_the_residual_as_direction_is_conjugate_gradients():
    x, _ = run(lambda r: r, max_steps=9)
    expected, _ = solve(matvec, B, max_steps=9, rtol=1e-5)
    np.testing.assert_allclose(x, expected, rtol=1e-3, atol=1e-3)
    _, info = run(lambda r: r)
    assert info.converged


def test_the_inverse_takes_one_step():
    inverse = jnp.linalg.inv(MATRIX)
    x, info = run(lambda r: 7.0 * (inverse @ r))
    assert int(info.iterations) <= 2
    np.testing.assert_allclose(matvec(x), B, atol=1e-3)


def test_any_direction_lowers_the_energy():
    """Also those of a function that has learnt nothing: rows of random signs."""
    signs = jnp.asarray(np.sign(rng.normal(size=(N, N))), jnp.float32)
    solution = jnp.linalg.solve(MATRIX, B)
    energies = []
    for steps in (1, 3, 6):
        x, info = run(lambda r: jnp.tanh(signs @ r), max_steps=steps)
        error = x - solution
        energies.append(float(error @ MATRIX @ error))
        assert not info.converged
    assert solution @ MATRIX @ solution > energies[0] > energies[1] > energies[2]


def test_trained_directions_beat_conjugate_gradients():
    """A matrix trained on the loss alone, without a solution, acts as an inverse."""
    samples = ritz_samples(matvec, B, 256, key=jax.random.key(0), rank=N)

    def loss(weights, batch):
        return jnp.mean(jax.vmap(lambda r: direction_loss(matvec, lambda r: weights @ r, r))(batch))

    @jax.jit
    def train(weights):
        def step(carry, _):
            weights, m, v = carry
            g = jax.grad(loss)(weights, samples)
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
            return (weights - 0.02 * m / (jnp.sqrt(v) + 1e-8), m, v), None

        zeros = jnp.zeros_like(weights)
        return jax.lax.scan(step, (weights, zeros, zeros), length=300)[0][0]

    weights = train(jnp.eye(N))
    _, plain = run(lambda r: r)
    _, learnt = run(lambda r: weights @ r)
    assert learnt.converged
    assert learnt.iterations < 0.7 * plain.iterations


def test_loss():
    inverse = jnp.linalg.inv(MATRIX)
    assert direction_loss(matvec, lambda r: 3 * inverse @ r, B) < 1e-6
    r = B / jnp.linalg.norm(B)
    length = (r @ r) / (r @ MATRIX @ r)
    expected = jnp.sum((r - length * MATRIX @ r) ** 2)
    np.testing.assert_allclose(direction_loss(matvec, lambda r: r, B), expected, rtol=1e-4)


def test_samples_lean_to_small_eigenvalues():
    samples = ritz_samples(matvec, B, 400, key=jax.random.key(1), rank=N)
    np.testing.assert_allclose(jnp.linalg.norm(samples, axis=1), 1, rtol=1e-4)
    weights = np.sqrt(np.mean((np.asarray(samples) @ _q) ** 2, axis=0))
    assert weights[: N // 4].mean() > 4 * weights[-N // 4 :].mean()


def test_trees():
    b = {"a": B[:10], "b": B[10:].reshape(5, 6)}
    scale = lambda v: jax.tree.map(lambda leaf: 4.0 * leaf, v)  # noqa: E731
    x, info = deep_conjugate_direction(scale, b, lambda r: r)
    assert info.converged
    np.testing.assert_allclose(x["b"], b["b"] / 4, rtol=1e-5)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"^history "):
        deep_conjugate_direction(matvec, B, lambda r: r, history=0)
    with pytest.raises(ValueError, match=r"^count "):
        ritz_samples(matvec, B, 0, key=jax.random.key(0))
