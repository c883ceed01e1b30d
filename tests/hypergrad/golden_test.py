"""The four problems with dense float64 references: small errors, and flags that tell the truth."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

from optlab import hypergrad
from optlab.problems import HYPERGRADIENT_PROBLEMS, hypergradient_problem

WRONG = 1e-2  # a hypergradient that is further off must be flagged


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _estimate(estimator, outer, inner, *args, key):
    return estimator.estimate(outer, inner, *args, key=key)


def estimate(estimator, problem, key=0):
    h, info = _estimate(estimator, *problem.arguments, key=jax.random.key(key))
    return problem.error(h), info


@pytest.mark.parametrize("name", HYPERGRADIENT_PROBLEMS)
@pytest.mark.parametrize(("dtype", "largest"), [("float64", 1e-8), ("float32", 1e-5)])
def test_default_estimator_is_right(name, dtype, largest):
    with jax.enable_x64(dtype == "float64"):
        error, info = estimate(hypergrad.cg(), hypergradient_problem(name, dtype))
        assert error < largest
        assert not info.failed
        assert float(info.residual) < 1e-5
        assert info.products > 2


def estimators(problem):
    """Good and bad ones: the bad must know it."""
    step = 1 / problem.smoothness
    contraction = lambda x, y, b: y - step * jax.grad(problem.inner, 1)(x, y, b)  # noqa: E731
    sgd = optax.sgd(step)
    return {
        "cg": hypergrad.cg(),
        **{f"cg_{k}": hypergrad.cg(max_steps=k) for k in (1, 5, 10, 20, 30, 40, 50, 60, 80)},
        "cg_damped": hypergrad.cg(damping=1e-2),
        "gmres": hypergrad.gmres(),
        "exact": hypergrad.exact(),
        **{f"neumann_{k}": hypergrad.neumann(k, step) for k in (10, 300, 2000)},
        "randomized": hypergrad.neumann(100, step, randomized=True),
        "nystrom": hypergrad.nystrom(20, 1e-2),
        "one_step": hypergrad.one_step(step),
        "identity": hypergrad.identity(),
        "finite_difference": hypergrad.finite_difference(step),
        "rank_one": hypergrad.rank_one(),
        "fixed_point": hypergrad.fixed_point(contraction, max_steps=1000),
        "unrolled": hypergrad.unrolled(sgd, 1000),
        "checkpointed": hypergrad.unrolled(sgd, 1000, checkpoint="sqrt"),
        "truncated": hypergrad.unrolled(sgd, 200, truncate=100),
        "momentum": hypergrad.unrolled(optax.sgd(step, momentum=0.9, nesterov=True), 300),
        "adam": hypergrad.unrolled(optax.adam(1e-2), 200),
        "penalty": hypergrad.penalty(1e3, sgd, 500),
        "evolution": hypergrad.evolution(sgd, 20),
        "persistent_evolution": hypergrad.persistent_evolution(sgd, 20),
    }


def assert_honest(name, dtype, keep=lambda label: True):
    problem = hypergradient_problem(name, dtype)
    chosen = {label: e for label, e in estimators(problem).items() if keep(label)}
    if problem.y.size < 100 and keep("forward"):
        forward = hypergrad.unrolled(optax.sgd(1 / problem.smoothness), 300, mode="forward")
        chosen |= {"forward": forward, "best_response": hypergrad.best_response(optax.sgd(1.0), 50)}
    right, wrong = [], []
    for label, estimator in chosen.items():
        error, info = estimate(estimator, problem)
        (wrong if not error < WRONG else right).append(label)
        assert error < WRONG or info.failed, f"{label} is {error:.1e} off and says nothing"
        if error < 1e-5 and label != "best_response":
            assert not info.failed, f"{label} is {error:.1e} off only, and flagged"
    assert right
    assert wrong


CHEAP = ("cg", "cg_20", "cg_80", "nystrom", "adam")


def test_flags_tell_the_truth():
    assert_honest("ridge_bc_ill", jnp.float32, lambda label: label in CHEAP)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", HYPERGRADIENT_PROBLEMS)
def test_all_flags_tell_the_truth(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        assert_honest(name, dtype)


def test_without_a_check_nothing_is_vouched_for():
    problem = hypergradient_problem("ridge_bc")
    error, info = estimate(hypergrad.cg(tolerance=None), problem)
    assert error < 1e-5
    assert info.failed
    assert jnp.isnan(info.error)
    _, info = estimate(hypergrad.one_step(0.1, tolerance=None), problem)
    assert info.failed
    assert info.products == 0
    _, checked = estimate(hypergrad.one_step(0.1), problem)
    assert checked.products == 2
