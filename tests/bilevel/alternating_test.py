"""Double loops: any estimator, directions, batches, and the solution of the quadratics."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab import hypergrad
from optlab.bilevel import alternating, amigo, storm
from tests.bilevel.quadratics import OPTIMIZERS, QUADRATIC, distance, run, zeros

PROBLEM = tuple(QUADRATIC.problem)
LEVELS = {"outer_optimizer": optax.sgd(1.0), "inner_optimizer": optax.sgd(0.1)}
ESTIMATORS = {
    "cg": (hypergrad.cg(), 10),
    "neumann": (hypergrad.neumann(60, 0.2), 10),
    "unrolled": (hypergrad.unrolled(optax.sgd(0.2), 60), 0),
    "exact": (hypergrad.exact(), 10),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_reaches_the_solution(name):
    estimator, inner_steps = ESTIMATORS[name]
    solver = alternating(*PROBLEM, **LEVELS, estimator=estimator, inner_steps=inner_steps)
    state, info = run(solver, 250, batched=False)
    assert distance(state) < 1e-2
    y = QUADRATIC.inner_solution(state.x)
    np.testing.assert_allclose(state.y, y, atol=2e-2)
    assert info.outer_norm.shape == (250,)


def test_the_outer_step_is_the_hypergradient_at_the_new_y():
    solver = alternating(*PROBLEM, **LEVELS, estimator=hypergrad.exact(), inner_steps=200)
    x = jnp.array([0.3, -0.2, 0.5])
    state = solver.init(jax.random.key(0), x, zeros()[1])
    new, info = jax.jit(solver.step)(state, QUADRATIC.outer_data, QUADRATIC.inner_data)
    h = QUADRATIC.hypergradient(x)
    np.testing.assert_allclose(new.x, x - h, rtol=1e-4, atol=1e-5)
    assert float(info.outer_norm) == pytest.approx(float(jnp.linalg.norm(h)), rel=1e-4)


def test_momentum_at_both_levels_reduces_the_noise():
    """MRBO and SUSTAIN beside StocBiO, at equal steps."""

    def end(**directions):
        solver = alternating(
            *PROBLEM, **LEVELS, estimator=hypergrad.neumann(20, 0.2, tolerance=None), **directions
        )
        states = [run(solver, 600, state=None)[0]]
        return np.mean([distance(s) for s in states])

    weight = 0.1
    reduced = end(outer_direction=storm(weight), inner_direction=storm(weight))
    assert reduced < 0.7 * end()


def test_each_inner_step_takes_its_own_batch():
    solver = alternating(
        *PROBLEM, **LEVELS, estimator=hypergrad.cg(), inner_steps=2, fresh_batches=True
    )
    state = solver.init(jax.random.key(0), *zeros())
    pair = jax.tree.map(lambda a: a.reshape(2, -1, *a.shape[1:]), QUADRATIC.inner_data)
    new, _ = jax.jit(solver.step)(state, QUADRATIC.outer_data, pair)
    x, y = zeros()
    gradient = jax.jit(jax.grad(PROBLEM[1], argnums=1))
    for i in range(2):
        y = y - 0.1 * gradient(x, y, jax.tree.map(lambda a, i=i: a[i], pair))
    np.testing.assert_allclose(new.y, y, rtol=1e-5, atol=1e-6)


def test_randomized_estimators_draw_anew_in_each_step():
    estimator = hypergrad.neumann(10, 0.2, randomized=True, tolerance=None)
    solver = alternating(*PROBLEM, **LEVELS, estimator=estimator, inner_steps=1)
    states, _ = run(solver, 1, batched=False)
    again, _ = run(solver, 1, batched=False)
    np.testing.assert_array_equal(states.x, again.x)  # one key, one run
    key = jax.random.key_data(jax.random.split(jax.random.key(2))[0])
    np.testing.assert_array_equal(states.key, key)


def test_amigo_reaches_the_solution():
    solver = amigo(*PROBLEM, **OPTIMIZERS, inner_steps=5, linear_steps=5)
    assert distance(run(solver, 400, batched=False)[0]) < 1e-2


def test_amigo_takes_batches_in_turn():
    solver = amigo(*PROBLEM, **OPTIMIZERS, inner_steps=1, linear_steps=2, fresh_batches=True)
    four = jax.tree.map(lambda a: a.reshape(4, -1, *a.shape[1:]), QUADRATIC.inner_data)
    state = solver.init(jax.random.key(0), *zeros())
    new, _ = jax.jit(solver.step)(state, QUADRATIC.outer_data, four)
    (a, b, c), t = (jax.tree.map(lambda m: m.mean(1), four), QUADRATIC.outer_data.mean(0))
    y = 0.1 * c[0]
    v = 0.1 * (y - t)
    v = v - 0.1 * (a[2] @ v - (y - t))
    np.testing.assert_allclose(new.y, y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new.v, v, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(new.x, -0.1 * b[3].T @ v, rtol=1e-4, atol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="inner_steps must be an integer"):
        alternating(*PROBLEM, **LEVELS, estimator=hypergrad.cg(), inner_steps=-1)
    solver = alternating(*PROBLEM, **LEVELS, estimator=hypergrad.cg(), outer_direction=storm(0.5))
    with pytest.raises(ValueError, match="outer_direction needs an estimator without a state"):
        solver.init(jax.random.key(0), *zeros())


@pytest.mark.parametrize(("simultaneous", "x"), [(True, -0.3), (False, -0.14)])
def test_simultaneous_takes_the_hypergradient_at_the_old_y(simultaneous, x):
    def outer(x, y, batch):
        return (y - 1.0) ** 2

    def inner(x, y, batch):
        return (y - 2.0 * x) ** 2

    sgd = optax.sgd(0.1)
    solver = alternating(
        outer,
        inner,
        outer_optimizer=sgd,
        inner_optimizer=sgd,
        estimator=hypergrad.cg(),
        simultaneous=simultaneous,
    )
    state = solver.init(jax.random.key(0), jnp.array(0.5), jnp.array(3.0))
    state, _ = jax.jit(solver.step)(state, None, None)
    # h = 4 (y - 1), at y = 3 or at 2.6, where the inner step leads.
    np.testing.assert_allclose((state.x, state.y), (x, 2.6), rtol=1e-5)
