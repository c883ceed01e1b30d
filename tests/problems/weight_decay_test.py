"""A decay for every parameter: the formula, and its hypergradient in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from optlab.hypergrad import cg
from optlab.problems import parameter_decay


def half_square(params, batch):
    features, targets = batch
    return 0.5 * jnp.mean((features @ params["w"] - targets) ** 2)


def data(seed):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(30, 4)), jnp.float32), jnp.asarray(
        rng.normal(size=30), jnp.float32
    )


def test_hypergradient_is_the_closed_form():
    r"""y* = H^{-1} b with H = A'A/N + diag(e^x), and h = -e^x y* H^{-1} f_y."""
    problem = parameter_decay(half_square)
    train, held_out = data(0), data(1)
    x = {"w": jnp.array([-2.0, -1.0, 0.0, 1.0])}
    a, b = map(np.asarray, train)
    hessian = a.T @ a / 30 + np.diag(np.exp(np.asarray(x["w"])))
    y = np.linalg.solve(hessian, a.T @ b / 30)
    assert jnp.abs(jax.grad(problem.inner, 1)(x, {"w": jnp.asarray(y)}, train)["w"]).max() < 1e-6
    c, d = map(np.asarray, held_out)
    f_y = c.T @ (c @ y - d) / 30
    wanted = -np.exp(np.asarray(x["w"])) * y * np.linalg.solve(hessian, f_y)
    h, _ = cg().estimate(*problem, x, {"w": jnp.asarray(y)}, held_out, train)
    np.testing.assert_allclose(h["w"], wanted, rtol=2e-4, atol=1e-6)


def test_one_decay_may_serve_a_whole_array():
    problem, params = parameter_decay(half_square), {"w": jnp.array([1.0, -2.0, 0.5, 3.0])}
    each = problem.inner({"w": jnp.full(4, -1.5)}, params, data(0))
    shared = problem.inner({"w": jnp.array(-1.5)}, params, data(0))
    np.testing.assert_allclose(shared, each, rtol=1e-6)
    assert float(problem.outer({"w": jnp.array(9.0)}, params, data(0))) == float(
        half_square(params, data(0))
    )
