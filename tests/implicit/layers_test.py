"""Quadratic programs and least squares as layers, many at once and on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from optlab import implicit
from tests import multi_device


def _programs(count, dtype):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(count, 4, 4))
    inside = rng.normal(size=(count, 4, 1))
    A, G = rng.normal(size=(count, 1, 4)), rng.normal(size=(count, 5, 4))
    h = (G @ inside)[..., 0] + rng.random((count, 5))
    Q = root @ root.transpose(0, 2, 1) / 4 + 0.1 * np.eye(4)
    data = Q, 2 * rng.normal(size=(count, 4)), A, (A @ inside)[..., 0], G, h
    return [jnp.asarray(a, dtype) for a in data]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_thousand_programs_meet_their_conditions(dtype):
    with jax.enable_x64(dtype == jnp.float64):
        data = _programs(1000, dtype)

        def loss(c, Q, *rest):
            point, info = implicit.quadratic_program(Q, c, *rest)
            return jnp.sum(point.x**2), (point, info)

        gradient, (point, info) = jax.jit(jax.vmap(jax.grad(loss, has_aux=True)))(
            data[1], data[0], *data[2:]
        )
    assert info.converged.all()
    assert np.isfinite(gradient).all()
    Q, c, A, b, G, h = (np.asarray(a, np.float64) for a in data)
    x, nu, lam = (np.asarray(a, np.float64) for a in point)
    tolerance = 1e-9 if dtype == jnp.float64 else 3e-4
    product = lambda m, v: (m @ v[..., None])[..., 0]  # noqa: E731
    stationary = product(Q, x) + c + product(A.transpose(0, 2, 1), nu)
    stationary += product(G.transpose(0, 2, 1), lam)
    slack = h - product(G, x)
    for residual in (stationary, product(A, x) - b, np.minimum(lam, 0), np.minimum(slack, 0)):
        assert np.abs(residual).max() < tolerance
    assert np.abs(lam * slack).max() < 10 * tolerance
    assert (lam > 10 * tolerance).any(), "some constraint is active"


def test_an_infeasible_program_is_reported():
    G, h = jnp.array([[1.0], [-1.0]]), jnp.array([-1.0, -1.0])

    def solution(h):
        point, info = implicit.quadratic_program(jnp.eye(1), jnp.zeros(1), G=G, h=h)
        return point.x[0], info

    slope, info = jax.jit(jax.grad(solution, has_aux=True))(h)
    assert not info.converged
    assert jnp.isnan(slope).all()


def test_bad_shapes_are_named():
    with pytest.raises(TypeError, match="Q must have shape"):
        implicit.quadratic_program(jnp.eye(3), jnp.zeros(2))
    with pytest.raises(TypeError, match="A and b go together"):
        implicit.quadratic_program(jnp.eye(2), jnp.zeros(2), A=jnp.eye(2))
    with pytest.raises(TypeError, match="G and h must have shapes"):
        implicit.quadratic_program(jnp.eye(2), jnp.zeros(2), G=jnp.eye(3), h=jnp.zeros(3))


def _fit(x, theta):
    """An expert's constraint: amplitude and rate of a decay through three points, and damped."""
    s = jnp.array([0.0, 0.5, 1.0])
    return x[0] * jnp.exp(-x[1] * s) - theta, 0.01 * x


@pytest.mark.parametrize(
    "axis_type",
    [pytest.param(AxisType.Auto, marks=pytest.mark.slow), AxisType.Explicit],
    ids=lambda a: a.name,
)
def test_experts_are_solved_where_they_live(axis_type):
    solve = implicit.least_squares(_fit, tol=1e-4)
    rng = np.random.default_rng(0)
    amplitude, rate = rng.uniform(1, 2, (8, 1)), rng.uniform(0.5, 1, (8, 1))
    theta = jnp.asarray(amplitude * np.exp(-rate * np.array([0, 0.5, 1])), jnp.float32)

    def layer(theta):
        def expert(theta):
            x = solve(jnp.ones(2), theta)
            return jnp.sum(x**2), x

        return jax.vmap(jax.grad(expert, has_aux=True))(theta)

    slopes, x = jax.jit(layer)(theta)
    np.testing.assert_allclose(x, np.hstack([amplitude, rate]), atol=0.02)
    mesh = multi_device.mesh(axis_type)
    if axis_type == AxisType.Explicit:
        layer = jax.sharding.auto_axes(layer, axes=("x",), out_sharding=PartitionSpec("x"))
    with jax.set_mesh(mesh):
        sharded = jax.device_put(theta, NamedSharding(mesh, PartitionSpec("x", None)))
        compiled = jax.jit(layer).lower(sharded).compile()
        there, x_there = jax.block_until_ready(compiled(sharded))
    np.testing.assert_allclose(there, slopes, rtol=1e-3, atol=1e-4)
    assert x_there.sharding.spec[0] == "x"
    assert "all-gather" not in compiled.as_text(), "an expert's data left its device"
