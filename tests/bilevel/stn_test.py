"""STN: the closed form on ridge, a loop over examples, the learnt scale."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_diabetes

from optlab.bilevel import stn

ROWS, SIZE = 4, 3
LEVELS = {"outer_optimizer": optax.sgd(0.1), "inner_optimizer": optax.sgd(1.0)}


def _ridge():
    """Diabetes with 30 features of noise: 100 rows to learn from, the others held out."""
    rng = np.random.default_rng(0)
    features, targets = load_diabetes(return_X_y=True)
    features = np.concatenate([features, rng.standard_normal((len(targets), 30))], axis=1)
    features = (features - features.mean(0)) / features.std(0)
    targets = (targets - targets.mean()) / targets.std()
    order = rng.permutation(len(targets))
    return tuple(
        (jnp.asarray(features[rows], jnp.float32), jnp.asarray(targets[rows], jnp.float32))
        for rows in (order[:100], order[100:])
    )


TRAINING, HELD_OUT = _ridge()


def _error(weights, batch):
    features, targets = batch
    return 0.5 * jnp.mean((features @ weights - targets) ** 2)


def _response(x, y):
    return y["weights"] + y["slope"] * x


def _outer(x, y, batch):
    return _error(_response(x, y), batch)


def _inner(x, y, batch):
    weights = _response(x, y)
    return _error(weights, batch) + 0.5 * jnp.exp(x) * jnp.sum(weights**2)


def _exact(x):
    """The held-out error of the best weights at a decay of exp(x)."""
    a, b = (np.asarray(m, np.float64) for m in TRAINING)
    best = np.linalg.solve(a.T @ a / len(b) + np.exp(x) * np.eye(a.shape[1]), a.T @ b / len(b))
    a, b = (np.asarray(m, np.float64) for m in HELD_OUT)
    return 0.5 * np.mean((a @ best - b) ** 2)


@pytest.mark.parametrize("learns_scale", [False, True], ids=["fixed", "learnt_scale"])
def test_finds_the_best_decay_of_ridge(learns_scale):
    steps = 2000
    grid = np.linspace(-4.0, 2.0, 6001)
    errors = [_exact(x) for x in grid]
    best, least = grid[np.argmin(errors)], min(errors)
    assert errors[0] > least + 0.05
    solver = stn(
        _outer,
        _inner,
        outer_optimizer=optax.adam(optax.cosine_decay_schedule(0.02, steps)),
        inner_optimizer=optax.adam(optax.cosine_decay_schedule(0.02, 2 * steps)),
        scale_optimizer=optax.adam(0.003) if learns_scale else None,
    )

    @jax.jit
    @jax.vmap
    def run(key):
        zeros = jnp.zeros(40)
        state = solver.init(key, jnp.array(-4.0), {"weights": zeros, "slope": zeros})

        def step(state, _):
            return solver.step(state, HELD_OUT, TRAINING)

        return jax.lax.scan(step, state, length=steps)[0].x

    ends = run(jax.random.split(jax.random.key(0), 3))
    np.testing.assert_allclose(ends, best, atol=0.1)
    assert all(_exact(x) - least < 1e-4 for x in ends)


def test_perturbations_of_examples_are_a_loop_over_examples():
    """The same key gives the same perturbations: one loss reads them off, another one uses them."""
    center, key = jnp.array([0.3, -0.2, 0.1]), jax.random.key(3)
    batch = jnp.eye(ROWS)

    def first(inner, y):
        solver = stn(inner, inner, **LEVELS, inner_steps=1)
        return jax.jit(solver.step)(solver.init(key, center, y), batch, batch)[0].y

    # Row i of the gradient is that example's x over the number of rows.
    read = -ROWS * first(lambda x, y, b: jnp.mean(b @ y @ x), jnp.zeros((ROWS, SIZE)))
    assert len(np.unique(np.asarray(read))) == ROWS * SIZE
    np.testing.assert_allclose(read.mean(), center.mean(), atol=0.5)

    def inner(x, y, b):
        return jnp.mean(jnp.tanh(b @ y) * jnp.sum(x**2) + jnp.exp(x[0]) * (b @ y) ** 2)

    start = jnp.arange(1.0, ROWS + 1)
    gradient = jax.jit(jax.grad(inner, argnums=1))
    gradients = [gradient(read[i], start, batch[i : i + 1]) for i in range(ROWS)]
    np.testing.assert_allclose(
        first(inner, start), start - sum(gradients) / ROWS, rtol=1e-5, atol=1e-6
    )


def test_entropy_widens_a_scale_that_costs_nothing():
    rate, tau, sigma = 0.1, 0.3, 0.5
    solver = stn(
        lambda x, y, b: jnp.sum(x),
        lambda x, y, b: y**2,
        **LEVELS,
        scale_optimizer=optax.sgd(rate),
        sigma=sigma,
        entropy_weight=tau,
        per_example=False,
    )
    state = solver.init(jax.random.key(0), jnp.zeros(2000), jnp.array(1.0))
    np.testing.assert_allclose(jax.nn.softplus(state.scale), sigma, rtol=1e-6)
    new, info = jax.jit(solver.step)(state, None, None)
    slope = 1.0 - np.exp(-sigma)  # of softplus, where it is sigma
    # d/ds of the sum over x + sigma e has a mean of zero; that of -tau log sigma is known.
    np.testing.assert_allclose(
        jnp.mean(new.scale - state.scale), rate * tau * slope / sigma, atol=0.1 * slope * 0.1
    )
    np.testing.assert_allclose(new.x, -0.1, rtol=1e-6)
    assert float(info.outer_norm) == pytest.approx(2000**0.5, rel=1e-5)


def test_inner_steps_take_batches_in_turn_and_a_fixed_scale_leaves_f_alone():
    def inner(x, y, b):
        return jnp.mean((y - b) ** 2) / 2 + 0 * jnp.sum(x)

    solver = stn(
        lambda x, y, b: jnp.sum((x - y) ** 2) / 2,
        inner,
        outer_optimizer=optax.sgd(0.1),
        inner_optimizer=optax.sgd(0.5),
        fresh_batches=True,
    )
    state = solver.init(jax.random.key(0), jnp.array([2.0]), jnp.array(0.0))
    batches = jnp.array([[1.0, 3.0], [4.0, 4.0]])
    new, _ = jax.jit(solver.step)(state, batches[0], batches)
    np.testing.assert_allclose(new.y, 0.5 * (0.5 * 2.0) + 0.5 * 4.0)
    np.testing.assert_allclose(new.x, 2.0 - 0.1 * (2.0 - 2.5), rtol=1e-6)


def test_bad_input_is_named():
    def loss(x, y, b):
        return jnp.sum(x * y)

    with pytest.raises(ValueError, match="sigma must lie in"):
        stn(loss, loss, **LEVELS, sigma=0.0)
    solver = stn(loss, loss, **LEVELS, fresh_batches=True)
    state = solver.init(jax.random.key(0), jnp.ones(2), jnp.ones(2))
    with pytest.raises(ValueError, match="inner_batch must have a leading axis of 2, one an inner"):
        solver.step(state, jnp.ones(4), jnp.ones((3, 4)))
    with pytest.raises(ValueError, match="outer_batch must have a leading axis of rows"):
        solver.step(state, None, jnp.ones((2, 4)))
