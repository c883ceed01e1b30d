"""Evolution strategies: right in the mean, and persistent where truncation misleads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab import hypergrad

# Influence balancing: s' = M s + theta u, with a loss on the first element only.
N = 23
MATRIX = 0.5 * jnp.eye(N) + 0.5 * jnp.eye(N, k=1)
SIGNS = jnp.where(jnp.arange(N) < 10, 1.0, -1.0)


def influence(theta):
    """The dynamics as an optimizer; the inner objective plays no part."""
    return optax.stateless(lambda g, s: MATRIX @ s + theta * SIGNS - s)


def nothing(theta, s, batch):
    return 0.0 * jnp.sum(s)


def loss(theta, s, batch):
    return 0.5 * (s[0] - 1) ** 2


def descend(estimator, steps, theta=0.5, learning_rate=1e-4):
    @jax.jit
    def go(theta, s):
        def step(carry, key):
            theta, s, state = carry
            h, info = estimator.estimate(loss, nothing, theta, s, None, None, key=key, state=state)
            return (theta - learning_rate * h, info.y, info.state), None

        carry = (theta, s, estimator.init(theta, s))
        return jax.lax.scan(step, carry, jax.random.split(jax.random.key(0), steps))[0][0]

    return float(go(jnp.array(theta), jnp.zeros(N)))


def test_persistent_evolution_solves_influence_balancing():
    """theta* = -1/6, since s_1 tends to -6 theta."""
    estimator = hypergrad.persistent_evolution(influence, 1, sigma=0.1, pairs=500)
    assert descend(estimator, 1500) == pytest.approx(-1 / 6, abs=0.01)


def test_truncated_evolution_goes_the_wrong_way():
    estimator = hypergrad.evolution(influence, 1, sigma=0.1, pairs=500)
    assert descend(estimator, 1000) > 0.9


def inner(x, y, batch):
    return 0.5 * jnp.sum(jnp.exp(x["s"]) * (y - batch) ** 2) + x["t"] * jnp.sum(y)


def outer(x, y, batch):
    return jnp.sum((y - batch) ** 2) + 0.1 * jnp.sum(x["s"])


X = {"s": jnp.array([0.1, -0.2]), "t": jnp.array(0.3)}
Y, BATCHES = jnp.array([1.0, -1.0]), (jnp.array([0.2, 0.1]), jnp.array([0.5, 0.8]))
SGD = optax.sgd(0.3)


@functools.partial(jax.jit, static_argnums=0)
def run(estimator, key, state=None):
    return estimator.estimate(outer, inner, X, Y, *BATCHES, key=key, state=state)


@pytest.mark.parametrize("make", [hypergrad.evolution, hypergrad.persistent_evolution])
def test_the_mean_is_the_derivative_and_the_error_its_spread(make):
    exact, _ = run(hypergrad.unrolled(SGD, 4), jax.random.key(0))
    h, info = run(make(SGD, 4, sigma=0.01, pairs=20000), jax.random.key(1))
    norm = optax.tree.norm
    error = norm(optax.tree.sub(h, exact)) / norm(exact)
    assert error < 3 * info.error
    assert 1e-3 < info.error < 3e-2
    _, spread = run(make(SGD, 4, sigma=0.01, pairs=50), jax.random.key(2))
    assert spread.failed
    np.testing.assert_allclose(spread.error * np.sqrt(50), info.error * np.sqrt(20000), rtol=0.5)


def test_two_windows_see_all_steps():
    """The second window's estimate is the derivative of both, for x moved both."""
    window = hypergrad.persistent_evolution(SGD, 2, sigma=0.01, pairs=20000)
    _, info = run(window, jax.random.key(1))
    h, info = run(window, jax.random.key(2), info.state)
    exact, _ = run(hypergrad.unrolled(SGD, 4), jax.random.key(0))
    blind, _ = run(hypergrad.unrolled(SGD, 4, truncate=2), jax.random.key(0))
    norm = optax.tree.norm
    assert norm(optax.tree.sub(h, exact)) < 3 * info.error * norm(exact)
    assert norm(optax.tree.sub(h, blind)) > 6 * info.error * norm(exact)


def test_particles_start_again_at_the_horizon():
    window = hypergrad.persistent_evolution(SGD, 2, horizon=4, pairs=3)
    state = None
    for key in range(3):
        _, info = run(window, jax.random.key(key), state)
        state = info.state
    _, info = run(window, jax.random.key(2))
    assert int(state.step) == 2
    np.testing.assert_allclose(state.y, info.state.y, rtol=1e-6)
    np.testing.assert_allclose(state.noise["s"], info.state.noise["s"])


def test_one_pair_has_no_spread():
    _, info = run(hypergrad.evolution(SGD, 2, pairs=1), jax.random.key(0))
    assert jnp.isnan(info.error)
    assert info.failed


def test_a_key_is_needed():
    for make in (hypergrad.evolution, hypergrad.persistent_evolution):
        with pytest.raises(ValueError, match="key must be given"):
            make(SGD, 2).estimate(outer, inner, X, Y, *BATCHES)
