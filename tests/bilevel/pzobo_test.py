"""PZOBO: the mean of its samples is the unrolled hypergradient, and it descends."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab import hypergrad
from optlab.bilevel import pzobo
from tests.bilevel.quadratics import QUADRATIC, distance, run, zeros

PROBLEM = tuple(QUADRATIC.problem)
STEPS = 6


def _solver(**options):
    levels = {"outer_optimizer": optax.sgd(1.0), "inner_optimizer": optax.sgd(0.2)}
    return pzobo(*PROBLEM, **levels, inner_steps=STEPS, **options)


@pytest.mark.parametrize("fresh_batches", [False, True])
def test_the_mean_is_the_unrolled_hypergradient(fresh_batches):
    """The inner solution of a quadratic is linear in x: no length of a perturbation is too long."""
    x, y = jnp.array([0.3, -0.2, 0.5]), jnp.ones(6)
    inner = QUADRATIC.inner_data
    if fresh_batches:
        inner = jax.tree.map(lambda a: a[:60].reshape(STEPS, 10, *a.shape[1:]), inner)
    estimator = hypergrad.unrolled(optax.sgd(0.2), STEPS, fresh_batches=fresh_batches)
    estimate = jax.jit(functools.partial(estimator.estimate, *PROBLEM))
    expected, info = estimate(x, y, QUADRATIC.outer_data, inner)

    solver = _solver(mu=0.5, samples=4, fresh_batches=fresh_batches)

    @jax.jit
    @jax.vmap
    def step(key):
        return solver.step(solver.init(key, x, y), QUADRATIC.outer_data, inner)[0]

    states = step(jax.random.split(jax.random.key(0), 1000))
    sampled = np.asarray(x) - np.asarray(states.x)
    error = np.abs(np.mean(sampled, axis=0) - expected)
    assert (error < 4 * np.std(sampled, axis=0) / np.sqrt(1000)).all()
    np.testing.assert_allclose(states.y[0], info.y, rtol=1e-4, atol=1e-5)


def test_descends_to_the_solution():
    solver = pzobo(
        *PROBLEM,
        outer_optimizer=optax.sgd(lambda t: 10.0 / (t + 40.0)),
        inner_optimizer=optax.sgd(0.2),
        inner_steps=30,
    )
    states = run(solver, 800, batched=False)[0]
    assert distance(states) < 0.05


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="mu must lie in"):
        _solver(mu=0.0)
    solver = _solver(fresh_batches=True)
    with pytest.raises(ValueError, match="inner_batch must have a leading axis of 6"):
        solver.step(
            solver.init(jax.random.key(0), *zeros()), QUADRATIC.outer_data, QUADRATIC.inner_data
        )
