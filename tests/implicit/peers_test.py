"""Solvers of others under ``argmin``: SciPy on the host, and optimistix."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from optlab import implicit

A = np.random.default_rng(0).normal(size=(12, 4))
TARGETS = np.random.default_rng(1).normal(size=12)


def ridge(x, t):
    a, b = jnp.asarray(A, x.dtype), jnp.asarray(TARGETS, x.dtype)
    return 0.5 * jnp.mean((a @ x - b) ** 2) + 0.5 * jnp.exp(t) * jnp.sum(x**2)


def closed(t):
    return jnp.linalg.solve(A.T @ A / 12 + jnp.exp(t) * jnp.eye(4), A.T @ TARGETS / 12)


def scipy_minimize(fun, init, t):
    """L-BFGS-B in Fortran or C, called by XLA: one example a call, also under vmap."""

    def on_host(init, t):
        value = lambda x: 0.5 * np.mean((A @ x - TARGETS) ** 2) + 0.5 * np.exp(t) * x @ x  # noqa: E731
        slope = lambda x: A.T @ (A @ x - TARGETS) / 12 + np.exp(t) * x  # noqa: E731
        found = scipy.optimize.minimize(
            value,
            np.asarray(init),
            jac=slope,
            method="L-BFGS-B",
            options={"gtol": 1e-12, "ftol": 0},
        )
        return found.x.astype(init.dtype)

    return jax.pure_callback(on_host, init, init, t, vmap_method="sequential")


def optimistix_bfgs(fun, init, t):
    optimistix = pytest.importorskip("optimistix", reason="optimistix is a peer, not a requirement")
    solver = optimistix.BFGS(rtol=1e-10, atol=1e-10)
    return optimistix.minimise(lambda x, t: fun(x, t), solver, init, t, throw=False).value


@pytest.mark.parametrize("solver", [scipy_minimize, optimistix_bfgs], ids=["scipy", "optimistix"])
def test_both_modes_both_orders_and_vmap(solver):
    with jax.enable_x64(True):
        solve = implicit.argmin(ridge, solver)

        def loss(t):
            return jnp.sum(solve(jnp.zeros(4), t) ** 3)

        want = jax.grad(lambda t: jnp.sum(closed(t) ** 3))
        ts = jnp.array([-1.0, 0.5])
        gradient = jax.jit(jax.vmap(jax.grad(loss)))(ts)
        np.testing.assert_allclose(gradient, jax.vmap(want)(ts), rtol=1e-6)
        second = jax.jit(jax.jacfwd(jax.grad(loss)))(ts[0])
        np.testing.assert_allclose(second, jax.grad(want)(ts[0]), rtol=1e-6)


def test_scipy_on_a_vector_of_bounds():
    """A constrained solver of SciPy, under the condition of a projected gradient."""
    low = np.linalg.solve(A.T @ A / 12 + np.exp(-1.0) * np.eye(4), A.T @ TARGETS / 12)
    low = low + np.array([0.1, -1.0, 0.2, -1.0])  # two of the bounds are active

    def bounded(fun, init, t):
        def on_host(t):
            root = np.linalg.cholesky(A.T @ A / 12 + np.exp(t) * np.eye(4)).T
            right = np.linalg.solve(root.T, A.T @ TARGETS / 12)
            return scipy.optimize.lsq_linear(root, right, (low, np.inf), method="bvls").x

        return jax.pure_callback(on_host, init, t, vmap_method="sequential")

    with jax.enable_x64(True):
        condition = implicit.conditions.projected_gradient(
            ridge, lambda v: optax.projections.projection_box(v, low, np.full(4, np.inf))
        )
        solve = implicit.argmin(ridge, bounded, optimality=condition)
        run = jax.jit(lambda t: solve(jnp.zeros(4), t))
        x = run(-1.0)
        np.testing.assert_array_equal(x == low, [True, False, True, False])
        central = (run(-1.0 + 1e-5) - run(-1.0 - 1e-5)) / 2e-5
        np.testing.assert_allclose(jax.jit(jax.jacrev(run))(-1.0), central, atol=1e-6)
