"""Projections and proximal operators against what defines them, and their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab.implicit import projections, prox

RNG = np.random.default_rng(0)
V = RNG.normal(size=5)
M = RNG.normal(size=(4, 3))
A, B = RNG.normal(size=(2, 5)), RNG.normal(size=2)
INSIDE = RNG.uniform(0.2, 0.8, 5)
ROWS, COLS = np.full(4, 0.75), np.array([1.5, 1.0, 0.5])

# A projection, its argument, and points of its set: p is the projection of v where
# (v - p).(z - p) <= 0 for every z of the set.
PROJECTIONS = {
    "affine_set": (
        lambda v: projections.affine_set(v, A, B),
        V,
        [np.linalg.pinv(A) @ B + (np.eye(5) - np.linalg.pinv(A) @ A) @ u for u in 3 * np.eye(5)],
    ),
    "polyhedron": (
        lambda v: projections.polyhedron(v, A, A @ INSIDE, np.eye(5), np.ones(5)),
        2 * V,
        [INSIDE],
    ),
    "box_section": (
        lambda v: projections.box_section(v, 0.0, 1.0, jnp.arange(1.0, 6.0), 6.0),
        V,
        [np.eye(5)[4] + np.eye(5)[0], np.eye(5)[3] + np.eye(5)[1], np.full(5, 0.4)],
    ),
    "second_order_cone": (
        projections.second_order_cone,
        V,
        [np.zeros(5), *(np.append(s * u, 1.0) for u in np.eye(4) for s in (-1, 1))],
    ),
    "transport": (
        lambda v: projections.transport(v, ROWS, COLS),
        M,
        [
            np.outer(ROWS, COLS) / 3,
            np.array([[0.75, 0, 0], [0.75, 0, 0], [0, 0.75, 0], [0, 0.25, 0.5]]),
        ],
    ),
    "birkhoff": (
        projections.birkhoff,
        RNG.normal(size=(3, 3)),
        [np.eye(3), np.eye(3)[[1, 2, 0]], np.eye(3)[[2, 0, 1]], np.eye(3)[[1, 0, 2]]],
    ),
}  # fmt: skip


def _slopes_agree(function, v, atol=1e-6):
    """Forward, reverse and central differences along a random direction."""
    d, w = np.random.default_rng(1).normal(size=(2, *v.shape))
    h = 1e-6
    central = (np.asarray(function(v + h * d)) - np.asarray(function(v - h * d))) / (2 * h)
    forward = jax.jvp(function, (jnp.asarray(v),), (jnp.asarray(d),))[1]
    (reverse,) = jax.vjp(function, jnp.asarray(v))[1](jnp.asarray(w))
    np.testing.assert_allclose(forward, central, atol=atol)
    np.testing.assert_allclose(np.vdot(reverse, d), np.vdot(w, central), atol=10 * atol)


@pytest.mark.parametrize("name", PROJECTIONS)
def test_projection(name):
    project, v, members = PROJECTIONS[name]
    with jax.enable_x64(True):
        project = jax.jit(project)
        p = np.asarray(project(v))
        for z in [*members]:
            np.testing.assert_allclose(project(z), z, atol=1e-6)
            assert np.vdot(v - p, z - p) < 1e-7
        np.testing.assert_allclose(project(p), p, atol=1e-7)
        assert np.abs(p - v).max() > 0.1
        _slopes_agree(project, np.asarray(v))


def test_kl_projection():
    """The sums hold, and X = diag(u) exp(V) diag(w): its logarithm minus V has no mixed part."""
    with jax.enable_x64(True):
        v = jnp.asarray(3 * M).at[1, 2].set(-jnp.inf)
        a = jnp.asarray([0.75, 1.5, 0.0, 0.75])  # a row of nothing is allowed
        plan = jax.jit(lambda v: projections.kl_transport(v, a, COLS))
        x = np.asarray(plan(v))
        np.testing.assert_allclose(x.sum(1), a, atol=1e-12)
        np.testing.assert_allclose(x.sum(0), COLS, atol=1e-12)
        assert x[1, 2] == 0
        rest = np.log(x[[0, 3]]) - np.asarray(v)[[0, 3]]
        np.testing.assert_allclose(np.ptp(rest[0] - rest[1]), 0, atol=1e-10)
        _slopes_agree(plan, 3 * M)
        square = jax.jit(projections.kl_birkhoff)(M[:3])
        np.testing.assert_allclose(square.sum(0), 1, atol=1e-12)
        np.testing.assert_allclose(square.sum(1), 1, atol=1e-12)


@pytest.mark.parametrize("project", [projections.transport, projections.kl_transport])
def test_sums_of_the_wrong_length_are_named(project):
    with pytest.raises(
        ValueError, match=r"v must be a matrix, a have its rows .* \(2, 3\), \(3,\)"
    ):
        project(jnp.zeros((2, 3)), jnp.ones(3), jnp.ones(2))


def test_kl_projection_at_a_small_temperature():
    """Entropic transport of 48 points at 1/500 of the unit square, in float32."""
    p, q = RNG.random((2, 48, 2))
    cost = ((p[:, None] - q[None]) ** 2).sum(-1)
    a = jnp.full(48, 1 / 48)
    x = jax.jit(projections.kl_transport)(jnp.asarray(-500 * cost, jnp.float32), a, a)
    np.testing.assert_allclose(48 * x.sum(0), 1, atol=3e-3)
    np.testing.assert_allclose(48 * x.sum(1), 1, atol=1e-5)
    unequal = jax.jit(projections.kl_transport)(jnp.zeros((48, 48)), a, 2 * a)
    assert jnp.isnan(unequal).all(), "sums that differ cannot be met"


def test_sparse_simplex():
    v = jnp.asarray(V, jnp.float32)
    x = projections.sparse_simplex(v, 2, scale=3.0)
    assert jnp.sum(x > 0) <= 2
    np.testing.assert_allclose(jnp.sum(x), 3.0, rtol=1e-6)
    np.testing.assert_allclose(
        projections.sparse_simplex(v, 5), optax.projections.projection_simplex(v), rtol=1e-6
    )
    with pytest.raises(ValueError, match="max_nonzeros must be at most 5"):
        projections.sparse_simplex(v, 6)


# A proximal operator, its argument, and g.
PROXES = {
    "lasso": (prox.lasso, V, lambda x: 0.7 * np.abs(x).sum()),
    "elastic_net": (
        lambda v, s, weight: prox.elastic_net(v, s, weight=weight, square_weight=0.5),
        V,
        lambda x: 0.7 * np.abs(x).sum() + 0.25 * (x**2).sum(),
    ),
    "ridge": (prox.ridge, V, lambda x: 0.35 * (x**2).sum()),
    "group_lasso": (
        lambda v, s, weight: prox.group_lasso(v, s, weight=weight, axis=1),
        M,
        lambda x: 0.7 * np.linalg.norm(x, axis=1).sum(),
    ),
    "nuclear": (prox.nuclear, M, lambda x: 0.7 * np.linalg.norm(x, "nuc")),
    "non_negative_lasso": (
        prox.non_negative_lasso, V, lambda x: 0.7 * x.sum() if (x >= 0).all() else np.inf,
    ),
    "non_negative_ridge": (
        prox.non_negative_ridge, V, lambda x: 0.35 * (x**2).sum() if (x >= 0).all() else np.inf,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROXES)
def test_prox_minimises_what_defines_it(name):
    operator, v, g = PROXES[name]
    step = 1.1
    with jax.enable_x64(True):
        call = jax.jit(lambda v: operator(v, step, weight=0.7))
        x = np.asarray(call(v))

        def objective(x):
            return 0.5 * ((x - v) ** 2).sum() + step * g(x)

        rng = np.random.default_rng(2)
        for scale in (1e-3, 1e-1, 1.0):
            for _ in range(20):
                other = x + scale * rng.normal(size=x.shape) * (rng.random(x.shape) < 0.5)
                assert objective(other) >= objective(x) - 1e-12
        _slopes_agree(call, np.asarray(v))


def test_nuclear_derivative_where_singular_values_coincide():
    """Two removed ones at zero, two kept ones equal: the decomposition's derivative is NaN."""
    with jax.enable_x64(True):
        v = np.diag([3.0, 3.0, 0.0, 0.0])
        _slopes_agree(lambda v: prox.nuclear(v, 1.0), v, atol=1e-5)


def test_group_lasso_derivative_at_zero_is_zero():
    slope = jax.grad(lambda v: jnp.sum(prox.group_lasso(v, 1.0)))(jnp.zeros(3))
    np.testing.assert_array_equal(slope, 0)
