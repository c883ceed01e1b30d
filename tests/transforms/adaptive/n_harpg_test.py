"""N-HARPG against the authors' code, its recursion identity, and the contract with its input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab.transforms import n_harpg, n_harpg_query
from tests import golden
from tests.contract import numerics, protocol, sharding
from tests.contract.case import Case


def test_replays_the_authors_code():
    file = golden.load("opt_n_harpg")
    gamma = file["hyper"]["gamma_0"]
    tx = n_harpg(lambda t: gamma * 2 / (t + 2))

    def step(carry, inputs):
        x, state = carry
        g, h = inputs
        updates, state = tx.update(g, state, x, hvp=h)
        x = optax.apply_updates(x, updates)
        return (x, state), x

    with jax.enable_x64(True):
        x = {n: jnp.asarray(file[f"init_{n}"]) for n in ("W", "b")}
        inputs = tuple(
            {n: jnp.asarray(file[f"{kind}_{n}"], jnp.float64) for n in ("W", "b")}
            for kind in ("grad", "hvp")
        )
        _, path = jax.lax.scan(step, (x, tx.init(x)), inputs)
    for n in ("W", "b"):
        # Gradients and results are recorded in float32.
        np.testing.assert_allclose(path[n], file[f"params_{n}"], rtol=0, atol=1e-6)


def run(tx, loss, x, steps):
    """The params before each step, and the states after it."""

    def step(carry, key):
        x, state = carry
        point, direction = n_harpg_query(state, x, key)
        hvp = jax.jvp(jax.grad(loss), (point,), (direction,))[1]
        updates, new = tx.update(jax.grad(loss)(x), state, x, hvp=hvp)
        return (optax.apply_updates(x, updates), new), (x, new)

    keys = jax.random.split(jax.random.key(0), steps)
    return jax.jit(lambda x: jax.lax.scan(step, (x, tx.init(x)), keys)[1])(x)


@pytest.mark.parametrize("normalize", [True, False])
def test_without_noise_the_estimate_is_the_gradient(normalize):
    # On a quadratic the Hessian is the same at every point of the segment.
    with jax.enable_x64(True):
        curvature = jnp.linspace(0.1, 3.0, 6)
        x = jax.random.normal(jax.random.key(1), (6,))
        tx = n_harpg(0.05, normalize=normalize)
        path, state = run(tx, lambda x: 0.5 * jnp.sum(curvature * x**2), x, 30)
    np.testing.assert_allclose(state.mu, curvature[None] * path, rtol=1e-9)
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    gradients = np.linalg.norm(curvature[None] * path, axis=1)[:-1]
    np.testing.assert_allclose(steps, 0.05 * (1 if normalize else gradients), rtol=1e-9)


def test_the_query_lies_between_the_iterates():
    params = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
    tx = n_harpg(0.5)
    updates, state = tx.update(params, tx.init(params), params, hvp=params)
    new = optax.apply_updates(params, updates)
    keys = jax.random.split(jax.random.key(0), 200)
    point, direction = jax.vmap(lambda key: n_harpg_query(state, new, key))(keys)
    share = (point["a"][:, 0] - params["a"]) / updates["a"]
    assert 0 <= share.min() < 0.05 < 0.95 < share.max() <= 1
    share_b = (point["b"][:, 0, 0] - params["b"][0]) / updates["b"][0]
    np.testing.assert_allclose(share, share_b, atol=1e-5)
    np.testing.assert_array_equal(direction["b"][0], updates["b"])


def test_with_a_gradient_function_it_queries_itself():
    gradient = jax.grad(lambda x: jnp.sum(jnp.cos(x)))
    x = one = jnp.array([0.3, 0.8])
    tx = n_harpg(0.5, seed=7)
    state = alone = tx.init(x)
    for t in range(3):
        point, direction = n_harpg_query(state, x, jax.random.fold_in(jax.random.key(7), t))
        hvp = jax.jvp(gradient, (point,), (direction,))[1]
        updates, state = tx.update(gradient(x), state, x, hvp=hvp)
        x = optax.apply_updates(x, updates)
        updates, alone = tx.update(gradient(one), alone, one, grad_fn=gradient)
        one = optax.apply_updates(one, updates)
    np.testing.assert_allclose(one, x, rtol=1e-6)


def test_hvp_must_be_given():
    params = jnp.ones(2)
    tx = n_harpg(0.1)
    with pytest.raises(ValueError, match=r"^hvp must be given"):
        tx.update(params, tx.init(params), params)


@pytest.mark.parametrize("eta", [0.0, 1.5])
def test_errors_name_the_argument(eta):
    with pytest.raises(ValueError, match=r"^eta must lie in"):
        n_harpg(1e-3, eta=eta)


def without_curvature(learning_rate):
    tx = n_harpg(learning_rate)

    def update(updates, state, params=None):
        return tx.update(updates, state, params, hvp=jax.tree.map(jnp.zeros_like, updates))

    return optax.GradientTransformation(tx.init, update)


CASE = Case("n_harpg", without_curvature, {"learning_rate": 0.1}, state_bytes=8.0)


@pytest.mark.parametrize(
    "check",
    [
        numerics.check_bfloat16,
        numerics.check_empty_tree,
        numerics.check_gradient_scales,
        numerics.check_mixed_dtypes,
        numerics.check_nested_and_none,
        numerics.check_vmap_equals_loop,
        numerics.check_x64,
        numerics.check_zero_size_leaf,
        protocol.check_donation,
        protocol.check_state_bytes,
        protocol.check_state_never_aliases,
        protocol.check_state_types_fixed,
        sharding.check_sharding_explicit,
    ],
)
def test_contract(check):
    """As it needs ``hvp``, the catalog's sweep does not see it."""
    check(CASE)
