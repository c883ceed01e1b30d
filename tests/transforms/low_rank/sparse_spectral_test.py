"""SST by its invariants: no released code could be had to replay."""

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding

from optlab.transforms.low_rank import (
    SpectralFactors,
    sparse_spectral,
    spectral_dense,
    spectral_factors,
    spectral_matrix,
)
from tests.multi_device import blocking, mesh

SHAPE, RANK = (6, 4), 2


def normal(seed, shape=SHAPE, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def trajectory(tx, params, grads):
    """The params and states after each step."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, state)

    run = jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g)[1])
    return run(params, grads)


@pytest.fixture(scope="module")
def run():
    """Random gradients in float64: draws every 3 steps, a decomposition after every second draw."""
    with jax.enable_x64(True):
        factors = spectral_factors(normal(0, dtype=jnp.float64))
        grads = jax.tree.map(lambda x: normal(1, (14, *x.shape), jnp.float64), factors)
        tx = sparse_spectral(0.05, RANK, sample_interval=3, warmup_steps=2, weight_decay=0.1)
        return factors, grads, *trajectory(tx, factors, grads)


class NumpyAdam:
    """Adam's direction, as its authors have it."""

    def __init__(self):
        self.t, self.m, self.v = 0, 0.0, 0.0

    def __call__(self, g, b1=0.9, b2=0.999, eps=1e-8):
        self.t += 1
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g * g
        return (self.m / (1 - b1**self.t)) / (np.sqrt(self.v / (1 - b2**self.t)) + eps)


def test_equals_the_rule_written_out(run):
    factors, grads, path, states = run
    u, s, v = map(np.asarray, factors)
    value_adam = NumpyAdam()
    for t in range(14):
        g = jax.tree.map(lambda x, t=t: np.asarray(x[t]), grads)
        i = np.asarray(states.layers[0].indices[t])
        if t % 3 == 0:
            vector_adams = NumpyAdam(), NumpyAdam()
        rate = 0.05 * min(1, (t % 3 + 1) / 2)
        u, v = u.copy(), v.copy()
        for x, gx, adam in zip((u, v), (g.u, g.v), vector_adams, strict=True):
            x[:, i] -= rate * adam(gx[:, i])
            x[:, i] /= np.linalg.norm(x[:, i], axis=0)
        s = s - 0.05 * (value_adam(g.s) + 0.1 * s)
        if t % 6 == 5:  # the vectors' signs are arbitrary, and the gradients given: take theirs
            w = (u * s) @ v.T
            u, s, v = (np.asarray(x[t]) for x in path)
            np.testing.assert_allclose((u * s) @ v.T, w, rtol=0, atol=1e-12)
            np.testing.assert_allclose(s, np.linalg.svd(w)[1], rtol=0, atol=1e-12)
            value_adam = NumpyAdam()
        for found, want in zip(path, (u, s, v), strict=True):
            np.testing.assert_allclose(found[t], want, rtol=0, atol=1e-12)


def test_columns_are_unit_vectors_and_orthonormal_after_a_decomposition(run):
    _, _, path, _ = run
    for x in (path.u, path.v):
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-12)
        gram = np.einsum("tij,tik->tjk", x, x)
        off = np.abs(gram - np.eye(4)).max(axis=(1, 2))
        assert (off[[5, 11]] < 1e-12).all()
        assert (off[[0, 4, 8]] > 1e-3).all()
    assert (np.diff(np.asarray(path.s)[[5, 11]]) <= 0).all()


def test_only_the_drawn_vectors_move_and_all_values_do(run):
    factors, _, path, states = run
    before = jax.tree.map(lambda x, y: jnp.concatenate([x[None], y[:-1]]), factors, path)
    for t in (0, 1, 3, 7):
        drawn = np.zeros(4, bool)
        drawn[states.layers[0].indices[t]] = True
        assert drawn.sum() == RANK
        for name in ("u", "v"):
            moved = np.asarray(getattr(path, name)[t] - getattr(before, name)[t])
            assert (moved[:, ~drawn] == 0).all()
            assert (np.abs(moved[:, drawn]).max(axis=0) > 1e-4).all()
        assert (np.abs(path.s[t] - before.s[t]) > 1e-4).all()


def test_moments_begin_afresh(run):
    *_, states = run
    layer = states.layers[0]
    np.testing.assert_array_equal(layer.vectors.count, np.arange(14) % 3 + 1)
    np.testing.assert_array_equal(layer.values.count, (np.arange(14) + 1) % 6)
    assert (np.asarray(layer.values.mu)[[5, 11]] == 0).all()
    assert (np.asarray(layer.values.nu)[[4, 6]] > 0).all()


def test_draws_follow_the_singular_values():
    s = np.array([4.0, 3.0, 2.0, -1.0])
    factors = SpectralFactors(jnp.eye(6, 4), jnp.asarray(s, jnp.float32), jnp.eye(4))

    def drawn(seed):
        tx = sparse_spectral(0.1, 2, seed=seed)
        return tx.update(factors, tx.init(factors), factors)[1].layers[0].indices

    indices = jax.jit(jax.vmap(drawn))(jnp.arange(4000))
    assert (indices[:, 0] != indices[:, 1]).all()
    p = np.abs(s) / np.abs(s).sum()
    # In the draw itself, or after another one was taken away.
    inclusion = [p[i] * (1 + sum(p[j] / (1 - p[j]) for j in range(4) if j != i)) for i in range(4)]
    frequency = np.bincount(np.asarray(indices).ravel(), minlength=4) / 4000
    np.testing.assert_allclose(frequency, inclusion, rtol=0, atol=4 * (0.25 / 4000) ** 0.5)


def test_the_layer_is_the_dense_layer_with_enhanced_gradients():
    kernel, x = normal(0), normal(1, (2, 3, 6))
    factors = spectral_factors(kernel)
    np.testing.assert_allclose(spectral_matrix(factors), kernel, atol=1e-5)
    np.testing.assert_allclose(spectral_dense(x, factors), x @ kernel, atol=1e-5)
    loss = lambda y: jnp.sum(jnp.sin(y))  # noqa: E731
    by_x, by_w = jax.grad(lambda x, w: loss(x @ w), (0, 1))(x, kernel)
    found_x, found = jax.grad(lambda x, f: loss(spectral_dense(x, f)), (0, 1))(x, factors)
    true = jax.grad(lambda f: loss(x @ spectral_matrix(f)))(factors)
    np.testing.assert_allclose(found_x, by_x, atol=1e-4)
    np.testing.assert_allclose(found.u, by_w @ factors.v, atol=1e-4)
    np.testing.assert_allclose(found.v, by_w.T @ factors.u, atol=1e-4)
    np.testing.assert_allclose(found.u * factors.s[None], true.u, atol=1e-4)
    np.testing.assert_allclose(found.v * factors.s[None], true.v, atol=1e-4)
    np.testing.assert_allclose(found.s, true.s, atol=1e-4)


def test_fits_what_no_single_low_rank_update_can():
    """The claim: a rank of 2 at a time, and yet the full rank in the end."""
    start, target = normal(2, (12, 8)) / 4, normal(3, (12, 8)) / 4
    x = normal(4, (128, 12))
    best_of_lora = np.sum(np.linalg.svd(np.asarray(target - start))[1][2:] ** 2)

    def loss(factors):
        return jnp.mean(jnp.sum((spectral_dense(x, factors) - x @ target) ** 2, axis=1))

    tx = sparse_spectral(
        optax.linear_schedule(0.03, 0.0, 1200), 2, sample_interval=25, warmup_steps=5
    )

    def step(carry, _):
        factors, state = carry
        updates, state = tx.update(jax.grad(loss)(factors), state, factors)
        return (optax.apply_updates(factors, updates), state), None

    factors = spectral_factors(start)
    run = jax.jit(lambda c: jax.lax.scan(step, c, length=1200)[0][0])
    factors = run((factors, tx.init(factors)))
    assert jnp.sum((spectral_matrix(factors) - target) ** 2) < 0.01 * best_of_lora


def test_state_is_that_of_the_drawn_vectors_and_all_values():
    params = {"kernel": spectral_factors(normal(0, (20, 30))), "bias": jnp.zeros(30)}
    state = sparse_spectral(0.1, 3).init(params)
    numbers = 2 * 3 * (20 + 30) + 2 * 20
    assert sum(x.nbytes for x in jax.tree.leaves(state.layers)) == 4 * (numbers + 3 + 2)
    assert sum(x.size for x in jax.tree.leaves(state.fallback)) == 2 * 30 + 1
    few = sparse_spectral(0.1, 100).init(params["kernel"])
    assert few.layers[0].indices.shape == (20,)


def test_trains_under_nnx_and_keeps_its_types():
    class Model(nnx.Module):
        def __init__(self):
            self.kernel = nnx.Param(spectral_factors(normal(0)))
            self.bias = nnx.Param(jnp.zeros(4))

        def __call__(self, x):
            return spectral_dense(x, self.kernel.get_value()) + self.bias[...][None]

    model, x = Model(), normal(1, (16, 6))
    optimizer = nnx.Optimizer(model, sparse_spectral(0.05, 2, sample_interval=4), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean((m(x) - jnp.sin(x[:, :4])) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]
    assert isinstance(model.kernel.get_value(), SpectralFactors)


def test_state_survives_vmap_bfloat16_and_msgpack():
    tx = sparse_spectral(0.1, RANK, sample_interval=2, samples_per_round=1)

    def train(key):
        factors = spectral_factors(jax.random.normal(key, SHAPE, jnp.bfloat16))
        for _ in range(2):
            updates, state = tx.update(factors, tx.init(factors), factors)
            factors = optax.apply_updates(factors, updates)
        return factors, state

    factors, state = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), 2))
    assert all(x.dtype == jnp.bfloat16 for x in factors)
    assert state.layers[0].vectors.mu.u.dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(factors.u.astype(float), axis=1), 1, atol=0.02)
    restored = flax.serialization.from_bytes(state, flax.serialization.to_bytes(state))
    jax.tree.map(np.testing.assert_array_equal, restored, state)


@pytest.mark.parametrize("axes", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_four_devices_train_as_one_does(axes):
    params = {"kernel": spectral_factors(normal(0, (8, 12))), "bias": jnp.zeros(12)}
    grads = [jax.tree.map(lambda x, s=s: normal(s, x.shape), params) for s in range(1, 4)]
    # The second step ends in a decomposition.
    tx = sparse_spectral(0.05, 4, sample_interval=1, warmup_steps=0)

    def train(params, grads, update):
        state = tx.init(params)
        for g in grads:
            updates, state = update(g, state, params)
            params = optax.apply_updates(params, updates)
        return params

    want = train(params, grads, jax.jit(tx.update))
    devices = mesh(axes)
    rows, one = NamedSharding(devices, jax.P("x", None)), NamedSharding(devices, jax.P(None))
    layout = {
        "kernel": SpectralFactors(rows, one, rows),
        "bias": NamedSharding(devices, jax.P("x")),
    }
    with jax.set_mesh(devices):
        placed, *placed_grads = (jax.device_put(tree, layout) for tree in (params, *grads))
        found = train(placed, placed_grads, blocking(jax.jit(tx.update)))
    for name in ("u", "v"):
        kept = getattr(found["kernel"], name)
        assert kept.sharding.is_equivalent_to(rows, 2)
    # The signs of vectors are arbitrary, those of the matrix are not.
    matrices = (spectral_matrix(jax.device_get(tree["kernel"])) for tree in (found, want))
    np.testing.assert_allclose(*matrices, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rank": 0}, "rank must be"),
        ({"sample_interval": 0}, "sample_interval must be"),
        ({"samples_per_round": 0}, "samples_per_round must be"),
        ({"warmup_steps": -1}, "warmup_steps must lie in"),
        ({"b1": 1.0}, "b1 must lie in"),
    ],
)
def test_errors_name_the_argument(arguments, words):
    with pytest.raises(ValueError, match=words):
        sparse_spectral(0.1, **arguments)


def test_what_is_missing_is_named():
    factors = spectral_factors(normal(0))
    tx = sparse_spectral(0.1)
    with pytest.raises(ValueError, match="params hold no SpectralFactors"):
        tx.init({"kernel": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match="params must be given"):
        tx.update(factors, tx.init(factors))
    with pytest.raises(ValueError, match="matrix must have two axes"):
        spectral_factors(jnp.ones(3))
