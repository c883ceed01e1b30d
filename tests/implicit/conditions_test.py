"""Every condition of the catalogue: both modes, both orders of them, and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.implicit.case import CASES

STEP, TOLERANCE = 1e-5, 1e-6  # of central differences in float64


def _central(function, t):
    columns = []
    for e in np.eye(t.size):
        columns.append((function(t + STEP * e) - function(t - STEP * e)) / (2 * STEP))
    return np.stack(columns, axis=-1)


# Two minutes of compilation between them, cold; the quick ones keep a case of each kind:
# stationarity, a proximal map, projections, KKT, a fixed point.
LONG = ("constrained", "newton", "svm_dual", "curve_fit", "mirror", "cone_program", "group_lasso")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in CASES]
)
def test_both_modes_equal_finite_differences(name):
    """Also jaxopt 338 and 419, jax 13089: the transpose of a projection's derivative raised."""
    with jax.enable_x64(True):
        case = CASES[name]()
        t = jnp.asarray(case.theta)
        solution = jax.jit(case.solution)
        forward = jax.jit(jax.jacfwd(case.solution))(t)
        reverse = jax.jit(jax.jacrev(case.solution))(t)
        reference = _central(lambda t: np.asarray(solution(t)), t)
        assert np.isfinite(reference).all()
        assert np.abs(reference).max() > 1e-2, "a constant solution tests nothing"
        scale = 1 + np.abs(reference).max()
        np.testing.assert_allclose(forward, reference, atol=TOLERANCE * scale)
        np.testing.assert_allclose(reverse, forward, atol=1e-8 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_second_derivatives_equal_finite_differences_of_the_first(name):
    with jax.enable_x64(True):
        case = CASES[name]()
        t = jnp.asarray(case.theta)
        weights = jnp.asarray(np.random.default_rng(0).normal(size=case.solution(t).shape))

        def loss(t):
            return jnp.sum(weights * case.solution(t) ** 2)

        gradient = jax.jit(jax.grad(loss))
        hessian = jax.jit(jax.jacfwd(jax.jacrev(loss)))(t)
        reference = _central(lambda t: np.asarray(gradient(t)), t)
        np.testing.assert_allclose(hessian, reference, atol=1e-6 * (1 + np.abs(reference).max()))
