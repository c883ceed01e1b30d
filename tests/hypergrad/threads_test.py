"""What users of other libraries ran into, by the threads in which they told it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab import hypergrad
from optlab.problems import ridge_bilevel


@functools.lru_cache
def ridge():
    return ridge_bilevel(jax.random.key(0), rows=12, dimension=3)


@functools.partial(jax.jit, static_argnums=0)
def estimate(estimator, x, y):
    problem = ridge()
    return estimator.estimate(*problem.problem, x, y, problem.outer_batch, problem.inner_batch)


CG = hypergrad.cg()  # one instance, compiled once


@functools.lru_cache
def total(estimator):
    """The hypergradient as a function of x alone."""

    @jax.jit
    def function(x):
        return estimate(estimator, x, ridge().inner_solution(x))[0]

    return function


def test_scalar_inputs_do_not_give_zero():
    """TorchOpt 222: a bound of the steps computed from the size made them none."""
    h, info = estimate(CG, 0.5, ridge().inner_solution(0.5))
    np.testing.assert_allclose(h, ridge().hypergradient(0.5), rtol=1e-4)
    one = CG.estimate(lambda x, y, b: y**2, lambda x, y, b: (y - 3 * x) ** 2, 1.0, 3.0, None, None)
    assert float(one[0]) == 18.0
    assert not info.failed


def test_second_derivatives_in_both_modes():
    """jaxopt 141 (a gradient of a gradient that was wrong), TorchOpt 223 (jacrev and vmap)."""
    x = jnp.array(0.5)
    expected = jax.jacfwd(ridge().hypergradient)(x)
    for mode in (jax.jacfwd, jax.jacrev):
        derivative = jax.jit(mode(total(CG)))(x)
        np.testing.assert_allclose(derivative, expected, rtol=1e-3)
    xs = jnp.linspace(-1, 1, 3)
    np.testing.assert_allclose(
        jax.vmap(total(CG))(xs), jax.vmap(ridge().hypergradient)(xs), rtol=1e-3
    )


def test_value_and_gradient_are_of_the_same_point():
    """jaxopt 141: what value_and_grad gave differed from the derivative of the value."""
    problem = ridge()

    def value(x):
        return problem.problem.outer(x, problem.inner_solution(x), problem.outer_batch)

    x, step = jnp.array(0.5), 1e-2
    difference = (value(x + step) - value(x - step)) / (2 * step)
    np.testing.assert_allclose(total(CG)(x), difference, rtol=1e-3)


@pytest.mark.parametrize(
    "estimator", [CG, hypergrad.unrolled(optax.sgd(0.2), 100)], ids=["cg", "unrolled"]
)
def test_meta_gradient_is_not_zero(estimator):
    """optimistix 54: where x is only the start of the inner loop, its derivative is dropped.

    iMAML's proximal term makes the inner solution depend on x, whatever the start.
    """
    a = jnp.array([1.0, 3.0])
    strength = 0.5

    def inner(x, y, batch):
        return 0.5 * jnp.sum(a * (y - batch) ** 2) + 0.5 * strength * jnp.sum((y - x) ** 2)

    def outer(x, y, batch):
        return 0.5 * jnp.sum((y - batch) ** 2)

    x, train, test = jnp.array([0.3, -0.2]), jnp.array([1.0, 1.0]), jnp.array([0.5, 2.0])
    y = (a * train + strength * x) / (a + strength)
    h, _ = estimator.estimate(outer, inner, x, y, test, train)
    np.testing.assert_allclose(h, strength / (a + strength) * (y - test), rtol=1e-4)


def test_integers_and_keys_may_ride_in_batches():
    """Labels, indices and PRNG keys are data; no one differentiates them."""

    def inner(x, y, batch):
        labels, key = batch
        noise = 0.01 * jax.random.normal(key, y.shape)
        return 0.5 * jnp.sum((y - noise - x[labels]) ** 2)

    def outer(x, y, batch):
        return jnp.sum(y[batch])

    batch = (jnp.array([0, 1, 1, 0]), jax.random.key(0))
    index = jnp.array([0, 1, 2])
    for estimator in (CG, hypergrad.unrolled(optax.sgd(0.5), 30)):
        h, _ = estimator.estimate(outer, inner, jnp.zeros(2), jnp.zeros(4), index, batch)
        np.testing.assert_allclose(h, [1.0, 2.0], rtol=1e-4)


def test_frozen_variables_are_no_error():
    """TorchOpt 123, 144: variables that one level does not use, and None in their place."""
    x = {"used": jnp.array(1.0), "unused": jnp.zeros(2), "none": None}

    def inner(x, y, batch):
        return (y["w"] - 3 * x["used"]) ** 2

    def outer(x, y, batch):
        return y["w"] ** 2

    y = {"w": jnp.array(3.0), "frozen": jnp.ones(2)}
    h, info = CG.estimate(outer, inner, x, y, None, None)
    assert float(h["used"]) == pytest.approx(18.0)
    assert h["none"] is None
    np.testing.assert_array_equal(h["unused"], 0)
    assert not info.failed


def test_an_unsolved_inner_problem_is_seen():
    """jaxopt 582: a tolerance that was never met went unnoticed."""
    solved = ridge().inner_solution(0.5)
    _, at_solution = estimate(CG, 0.5, solved)
    _, elsewhere = estimate(CG, 0.5, solved + 1)
    assert at_solution.stationarity < 1e-5
    assert elsewhere.stationarity > 0.1
    _, early = estimate(hypergrad.unrolled(optax.sgd(0.1), 3), 0.5, solved + 1)
    assert early.failed


SMOOTH = {
    "adabelief": optax.adabelief(0.1),
    "adadelta": optax.adadelta(1.0),
    "adagrad": optax.adagrad(0.1),
    "adamw": optax.adamw(0.1),
    "nadam": optax.nadam(0.1),
    "polyak": optax.polyak_sgd(),
    "rmsprop": optax.rmsprop(0.1),
    "yogi": optax.yogi(0.1),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_any_optimizer_can_be_differentiated(name):
    """TorchOpt 81: more differentiable optimizers were asked for; all of optax's are."""
    y = ridge().inner_solution(0.5) + jnp.linspace(0.5, 1.0, 3)
    estimator = hypergrad.unrolled(SMOOTH[name], 4, tolerance=None)

    @jax.jit
    def both(x):
        problem = ridge()
        h, info = estimator.estimate(
            *problem.problem, x, y, problem.outer_batch, problem.inner_batch
        )
        return h, problem.problem.outer(x, info.y, problem.outer_batch)

    h, _ = both(x := jnp.array(0.5))
    difference = (both(x + 1e-2)[1] - both(x - 1e-2)[1]) / 2e-2
    np.testing.assert_allclose(h, difference, rtol=1e-2, atol=1e-4)  # the rounding of the values


def test_hyperparameters_in_the_optimizers_state():
    """optax 1, 1532: with inject_hyperparams a learning rate is part of the inner state."""
    y = ridge().inner_solution(0.5) + 1
    plain = hypergrad.unrolled(optax.adam(0.1), 5)
    injected = hypergrad.unrolled(optax.inject_hyperparams(optax.adam)(learning_rate=0.1), 5)
    h, info = estimate(plain, 0.5, y)
    same, other = estimate(injected, 0.5, y)
    np.testing.assert_allclose(same, h, rtol=1e-4)  # the rate is an array: other roundings
    np.testing.assert_allclose(other.y, info.y, rtol=1e-4)


def test_no_tracer_leaks():
    """TorchOpt PR 113, higher 6, 25, 37 and 75: memory of the loop lived on."""
    with jax.checking_leaks():
        for estimator in (hypergrad.cg(), hypergrad.unrolled(optax.adam(0.1), 2)):
            problem = ridge()
            args = (problem.outer_batch, problem.inner_batch)
            run = jax.jit(lambda x, y, e=estimator: e.estimate(*problem.problem, x, y, *args)[0])  # noqa: B023
            assert jnp.isfinite(run(0.5, jnp.ones(3)))


def test_estimators_change_nothing_and_steps_are_free():
    """Betty 13 and 14: weights that were not put back, and outer steps without inner ones."""
    y = ridge().inner_solution(0.5)
    estimator = hypergrad.finite_difference(0.01)
    h, info = estimate(estimator, 0.5, y)
    np.testing.assert_array_equal(info.y, y)
    again, _ = estimate(estimator, 0.5, y)  # the outer level moves, the inner one waits
    np.testing.assert_array_equal(again, h)
