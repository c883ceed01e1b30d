"""M-FAC against the authors' trajectory and the dense inverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optlab.transforms.curvature import m_fac, scale_by_m_fac
from tests import golden


@pytest.fixture(scope="module")
def file():
    return golden.load("opt_mfac")


def leaves(file, kind):
    return {n: jnp.asarray(file[f"{kind}_{n}"], float) for n in ("W", "b")}


def test_replays_the_authors(file):
    hyper = file["hyper"]
    with jax.enable_x64(True):
        tx = m_fac(
            hyper["lr"],
            hyper["ngrads"],
            hyper["damp"],
            b1=hyper["momentum"],
            weight_decay=hyper["weight_decay"],
        )
        path = golden.replay(tx, leaves(file, "init"), leaves(file, "grad"))
        for name, expected in leaves(file, "params").items():
            np.testing.assert_allclose(path[name], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("x64", [True, False])
def test_replays_the_authors_products(file, x64):
    hyper = file["hyper"]
    with jax.enable_x64(x64):
        start, after = leaves(file, "init"), leaves(file, "params")
        before = jax.tree.map(lambda s, a: jnp.concatenate([s[None], a[:-1]]), start, after)
        gradients = jax.tree.map(
            lambda g, x: g + hyper["weight_decay"] * x, leaves(file, "grad"), before
        )
        tx = scale_by_m_fac(hyper["ngrads"], hyper["damp"])
        step = jax.jit(lambda state, g: tx.update(g, state)[::-1])
        _, found = jax.lax.scan(step, tx.init(start), gradients)
        found = jnp.concatenate([found["W"].reshape(-1, 24 * 16), found["b"]], axis=1)
    scale = np.abs(file["ihvp"]).max()
    np.testing.assert_allclose(found, file["ihvp"], rtol=0, atol=1e-4 * scale)


def dense(window, g, damping):
    """The product with the inverse of the d x d matrix itself, in float64."""
    window = np.asarray(window, np.float64)
    fisher = damping * np.eye(window.shape[1]) + window.T @ window / len(window)
    return np.linalg.solve(fisher, np.asarray(g, np.float64))


@pytest.mark.parametrize("damping", [1e-6, 1e-2, 10.0])
def test_equals_the_dense_inverse_of_the_window(damping):
    # Gradients that differ in size by 10^4, more of them than the window holds.
    size, steps = 5, 12
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(steps, 14)) * np.geomspace(1e-2, 1e2, steps)[::-1, None]
    gradients = jnp.asarray(gradients, jnp.float32)
    tx = scale_by_m_fac(size, damping)
    update = jax.jit(tx.update)
    shapes = {"a": (3, 4), "b": (2,)}

    def tree(g):
        return {"a": g[:12].reshape(shapes["a"]), "b": g[12:]}

    state = tx.init(tree(gradients[0]))
    for t, g in enumerate(gradients):
        updates, state = update(tree(g), state)
        window = np.zeros((size, 14))
        window[: min(t + 1, size)] = gradients[max(t + 1 - size, 0) : t + 1]
        want = dense(window, g, damping)
        found = np.concatenate([updates["a"].ravel(), updates["b"]])
        np.testing.assert_allclose(found, want, rtol=0, atol=2e-4 * np.abs(want).max())
    np.testing.assert_allclose(
        np.sort(np.diag(state.gram)), np.sort(np.sum(window**2, axis=1)), rtol=1e-5
    )


def test_a_window_of_equal_gradients_is_damped_once():
    g = jnp.array([3.0, 4.0])
    tx = scale_by_m_fac(4, 1e-9)  # singular in float32 but for the ridge
    state = tx.init(g)
    for _ in range(4):
        updates, state = tx.update(g, state)
    np.testing.assert_allclose(updates, g / 25, rtol=5e-3)


def test_state_is_the_window_and_its_inner_products():
    params = {"w": jnp.ones((3, 5)), "b": jnp.ones(7)}
    size, d = 6, 22
    leaves = jax.tree.leaves(m_fac(0.1, size).init(params))
    assert sum(x.size for x in leaves) == (size + 1) * d + size**2 + 2  # two counters


def test_the_window_is_written_in_place():
    tx, params = scale_by_m_fac(8), jnp.ones((64, 128))
    state = tx.init(params)
    step = jax.jit(tx.update, donate_argnums=1).lower(params, state).compile()
    assert step.memory_analysis().temp_size_in_bytes < 0.25 * state.history.nbytes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"history": 0}, "history must be an integer of at least 1"),
        ({"history": 2.5}, "history must be an integer of at least 1"),
        ({"damping": 0.0}, "damping must lie in"),
        ({"b1": 1.0}, "b1 must lie in"),
    ],
)
def test_errors_name_the_argument(arguments, words):
    with pytest.raises(ValueError, match=words):
        m_fac(0.1, **arguments)
