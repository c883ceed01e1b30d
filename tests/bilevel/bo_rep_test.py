"""BO-REP on an objective whose smoothness grows with its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab.bilevel import bo_rep, soba

D = 10
_q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((D, D)))
A = jnp.asarray(_q @ np.diag(np.linspace(0.5, 1.0, D)) @ _q.T, jnp.float32)
START = jnp.linalg.solve(A, 9.0 * jnp.ones(D))
NOISE = 0.1


def _outer(x, y, noise):
    return jnp.sum(jnp.cosh(y - 1.0)) + 0.005 * jnp.sum(x**2) + NOISE * noise @ y


def _inner(x, y, noise):
    return 0.5 * jnp.sum((y - A @ x) ** 2) + NOISE * noise @ y


def _gradient(x):
    return A @ jnp.sinh(A @ x - 1.0) + 0.01 * x


@jax.jit
def _norms(rate):
    """Norms of the true gradient along a thousand steps, with fresh noise in each."""
    solver = _solver(rate)

    def step(state, key):
        noise = jax.random.normal(key, (2, D))
        state, _ = solver.step(state, noise[0], noise[1])
        return state, jnp.linalg.norm(_gradient(state.x))

    state = solver.init(jax.random.key(0), START, jnp.zeros(D))
    return jax.lax.scan(step, state, jax.random.split(jax.random.key(1), 1000))[1]


def _solver(rate, **options):
    sgd = optax.sgd(0.1)
    options = {"period": 4, "inner_steps": 4, "refine_steps": 40, **options}
    return bo_rep(
        _outer, _inner, learning_rate=rate, inner_optimizer=sgd, linear_optimizer=sgd, **options
    )


@pytest.mark.parametrize("rate", [0.1, 0.03, 0.01])
def test_does_not_diverge_where_gradients_are_steep(rate):
    assert float(jnp.linalg.norm(_gradient(START))) > 3000
    norms = _norms(rate)
    assert bool(jnp.isfinite(norms).all())
    assert float(norms[-1]) < float(norms[0])
    if rate == 0.1:
        assert float(norms[-1]) < 2.0


def test_without_normalisation_the_same_rates_overflow():
    sgd = optax.sgd(0.1)
    momentum = optax.chain(optax.ema(0.9, debias=False), optax.sgd(0.1))
    solver = soba(
        _outer, _inner, outer_optimizer=momentum, inner_optimizer=sgd, linear_optimizer=sgd
    )
    state = solver.init(jax.random.key(0), START, 9.0 * jnp.ones(D))
    step = jax.jit(solver.step)
    for _ in range(40):
        state, _ = step(state, jnp.zeros(D), jnp.zeros(D))
    assert not bool(jnp.isfinite(state.x).all())


def test_inner_steps_come_once_a_period_and_refine_the_start():
    solver = _solver(0.1, period=3, inner_steps=2, refine_steps=5, momentum=0.5)
    state = solver.init(jax.random.key(0), START, jnp.zeros(D))
    step, zero = jax.jit(solver.step), jnp.zeros(D)
    gaps = [1.0]
    for _ in range(4):
        x = state.x
        state, _ = step(state, zero, zero)
        gaps.append((state.y, x))
    y, x = gaps[1]
    # A step of 0.1 on a unit curvature leaves 0.9 of the gap: five steps at first,
    np.testing.assert_allclose(y, (1 - 0.9**5) * (A @ x), rtol=1e-5)
    for k in (2, 3):  # none in the rest of the period,
        np.testing.assert_array_equal(gaps[k][0], y)
    target = A @ gaps[4][1]  # and two at the start of the next
    np.testing.assert_allclose(gaps[4][0] - target, 0.9**2 * (y - target), rtol=1e-4, atol=1e-5)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="period must be an integer"):
        _solver(0.1, period=0)


def test_a_step_is_differentiated_backwards():
    """The inner loop is of a traced length, at which jax itself gives up."""
    solver, zero = _solver(0.1, period=2, inner_steps=2, refine_steps=3, momentum=0.5), jnp.zeros(D)

    def loss(x):
        state, _ = solver.step(solver.init(jax.random.key(0), x, jnp.zeros(D)), zero, zero)
        return jnp.sum(state.y**2)

    direction = jnp.linspace(-1.0, 1.0, D)
    slope = jax.jit(lambda: jax.jvp(loss, (START,), (direction,))[1])()
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(START) @ direction, slope, rtol=1e-4)
