"""N-PG-IGT against the authors' code, its transport identity, and its claim on a noisy problem."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optlab
from optlab.transforms import n_pg_igt_lookahead
from tests import golden


@pytest.mark.parametrize("suffix", ["", "_paperidx"], ids=["as_released", "paper"])
def test_replays_the_authors_code(suffix):
    file = golden.load("opt_n_pg_igt")
    gamma = file["hyper"]["gamma_0"]
    tx = optlab.n_pg_igt(lambda t: gamma * 2 / (t + 2), as_released=not suffix)

    def step(carry, g):
        x, state = carry
        point = n_pg_igt_lookahead(state, x)
        updates, state = tx.update(g, state, x)
        x = optax.apply_updates(x, updates)
        return (x, state), {"point": point, "params": x}

    with jax.enable_x64(True):
        x = {n: jnp.asarray(file[f"init_{n}"]) for n in ("W", "b")}
        grads = {n: jnp.asarray(file[f"grad_{n}{suffix}"], jnp.float64) for n in ("W", "b")}
        _, found = jax.lax.scan(step, (x, tx.init(x)), grads)
    for kind, path in found.items():
        for n in ("W", "b"):
            # Gradients and results are recorded in float32.
            np.testing.assert_allclose(path[n], file[f"{kind}_{n}{suffix}"], rtol=0, atol=1e-6)


def minimise(tx, gradient, x, steps, lookahead=n_pg_igt_lookahead):
    """The params and the state before each step; the gradient is ``gradient(point, t)``."""

    def step(carry, t):
        x, state = carry
        updates, new = tx.update(gradient(lookahead(state, x), t), state, x)
        return (optax.apply_updates(x, updates), new), (x, new)

    return jax.jit(lambda x: jax.lax.scan(step, (x, tx.init(x)), jnp.arange(steps))[1])(x)


@pytest.mark.parametrize("eta", [None, 0.3])
def test_without_noise_the_average_is_the_gradient(eta):
    # Transport: on a quadratic the average has no lag, whatever the path.
    curvature = jnp.linspace(0.1, 3.0, 6)
    x = jax.random.normal(jax.random.key(0), (6,))
    tx = optlab.n_pg_igt(lambda t: 0.2 / (t + 1), eta=eta)
    with jax.enable_x64(True):
        curvature, x = (jnp.asarray(a, jnp.float64) for a in (curvature, x))
        path, state = minimise(tx, lambda p, t: curvature * p, x, 30)
        lagging, behind = minimise(tx, lambda p, t: curvature * p, x, 30, lambda state, x: x)
    np.testing.assert_allclose(state.mu, curvature[None] * path, rtol=1e-9)
    assert np.abs(behind.mu - curvature[None] * lagging).max() > 0.05


def test_one_norm_for_the_whole_tree_and_a_look_ahead_through_a_chain():
    params = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
    tx = optax.chain(optax.scale(2.0), optlab.n_pg_igt(0.5, eta=0.25))
    updates, state = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["a"], [-0.3], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [[-0.4]], rtol=1e-6)
    point = n_pg_igt_lookahead(state, params)
    np.testing.assert_allclose(point["a"], [3.0 - 0.3 * (1 / 0.25 - 1)], rtol=1e-6)


def test_with_a_gradient_function_it_looks_ahead_itself():
    gradient = jax.grad(lambda x: jnp.sum(jnp.cos(x)))
    x = one = jnp.array([0.3, 0.8])
    tx = optlab.n_pg_igt(0.5)
    state = alone = tx.init(x)
    for _ in range(3):
        updates, state = tx.update(gradient(n_pg_igt_lookahead(state, x)), state, x)
        x = optax.apply_updates(x, updates)
        updates, alone = tx.update(gradient(one), alone, one, grad_fn=gradient)
        one = optax.apply_updates(one, updates)
    np.testing.assert_allclose(one, x, rtol=1e-6)
    with pytest.raises(ValueError, match="params must be given"):
        tx.update(gradient(one), alone, grad_fn=gradient)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_the_norm_neither_over_nor_underflows(scale):
    gradient = scale * jnp.array([3.0, 4.0])
    tx = optlab.n_pg_igt(1.0)
    updates, _ = tx.update(gradient, tx.init(gradient))
    np.testing.assert_allclose(updates, [-0.6, -0.8] if scale else [0, 0], rtol=1e-5)


def test_state_is_two_trees():
    state = optlab.n_pg_igt(1.0).init({"w": jnp.zeros((6, 4))})
    assert sum(x.size for x in jax.tree.leaves((state.mu, state.offset))) == 2 * 6 * 4


def test_noise_hurts_it_less_than_momentum_without_transport():
    # The paper's rates, averaged over 16 streams of noise far larger than the gradient at the end.
    size, steps = 20, 500
    curvature = jnp.linspace(0.5, 1.5, size)
    tx = optlab.n_pg_igt(lambda t: 4.0 * 2 / (t + 2))

    def error(key, lookahead):
        start, noise = jax.random.split(key)
        x = jax.random.normal(start, (size,))
        noise = jax.random.normal(noise, (steps, size))
        path, _ = minimise(tx, lambda p, t: curvature * p + noise[t], x, steps, lookahead)
        return jnp.linalg.norm(path[-1])

    keys = jax.random.split(jax.random.key(5), 16)
    ours, plain = (
        float(jax.vmap(lambda k, f=f: error(k, f))(keys).mean())
        for f in (n_pg_igt_lookahead, lambda state, x: x)
    )
    assert ours < 0.75 * plain


@pytest.mark.parametrize("eta", [0.0, 1.5])
def test_errors_name_the_argument(eta):
    with pytest.raises(ValueError, match=r"^eta must lie in"):
        optlab.n_pg_igt(1e-3, eta=eta)
