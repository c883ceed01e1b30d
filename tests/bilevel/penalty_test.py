"""First-order penalty methods against closed forms, non-unique inner solutions included."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab.bilevel import bome, f2sa, penalty, storm, vpbgd

RANK, INNER, OUTER = 3, 6, 4


def _degenerate(sigma):
    """Least squares of rank 3 in six variables: closed forms of the penalised problem.

    f = |y - c|^2 / 2 + rho |x|^2 / 2 and g = |A y - B x|^2 / 2, whose solutions are y = M x + the
    kernel of A, with M = A^+ B; the outer objective picks the one nearest to c.
    """
    rng = np.random.default_rng(3)
    u = np.linalg.qr(rng.standard_normal((RANK, RANK)))[0]
    v = np.linalg.qr(rng.standard_normal((INNER, INNER)))[0][:, :RANK]
    s = np.array([2.0, 1.0, 0.7])
    a, b = u @ np.diag(s) @ v.T, rng.standard_normal((RANK, OUTER))
    c, rho = rng.standard_normal(INNER), 0.3
    m = np.linalg.pinv(a) @ b
    w = v @ np.diag(s**2 / (s**2 + sigma)) @ v.T
    exact = np.linalg.solve(m.T @ m + rho * np.eye(OUTER), m.T @ v @ v.T @ c)
    penalised = np.linalg.solve(m.T @ w @ m + rho * np.eye(OUTER), m.T @ w @ v @ v.T @ c)

    def outer(x, y, batch):
        return 0.5 * jnp.sum((y - c) ** 2) + 0.5 * rho * jnp.sum(x**2)

    def inner(x, y, batch):
        return 0.5 * jnp.sum((a @ y - b @ x) ** 2)

    return outer, inner, exact, penalised


def _descend(solver, x, y, steps):
    @jax.jit
    def loop(state):
        return jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=steps)

    return loop(solver.init(jax.random.key(0), x, y))


@pytest.fixture
def _x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("_x64")
def test_the_gap_to_the_solution_is_of_first_order_in_sigma():
    sigmas, gaps = (0.1, 0.01), []
    for sigma in sigmas:
        outer, inner, exact, penalised = _degenerate(sigma)
        solver = penalty(
            outer,
            inner,
            outer_optimizer=optax.sgd(0.1 * min(1.0, 20 * sigma)),
            inner_optimizer=optax.sgd(0.24),
            sigma=sigma,
            inner_steps=60,
        )
        state, _ = _descend(solver, jnp.zeros(OUTER), jnp.zeros(INNER), 3000)
        np.testing.assert_allclose(state.x, penalised, atol=1e-6)
        gaps.append(np.linalg.norm(state.x - exact))
    slope = np.log(gaps[0] / gaps[1]) / np.log(sigmas[0] / sigmas[1])
    assert 0.9 < slope < 1.1


@pytest.mark.usefixtures("_x64")
def test_one_loop_with_momentum_finds_the_same():
    outer, inner, _, penalised = _degenerate(0.1)
    solver = penalty(
        outer,
        inner,
        outer_optimizer=optax.sgd(0.01),
        inner_optimizer=optax.sgd(0.2),
        sigma=0.1,
        outer_direction=storm(0.2),
        inner_direction=storm(0.2),
    )
    state, _ = _descend(solver, jnp.zeros(OUTER), jnp.zeros(INNER), 15000)
    np.testing.assert_allclose(state.x, penalised, atol=1e-4)


def test_constraints_hold_on_both_variables():
    outer, inner, _, _ = _degenerate(0.1)

    def ball(tree):
        return tree / jnp.maximum(1.0, jnp.linalg.norm(tree) / 0.1)

    solver = penalty(
        outer,
        inner,
        outer_optimizer=optax.sgd(0.1),
        inner_optimizer=optax.sgd(0.1),
        sigma=0.1,
        project_outer=ball,
        project_inner=ball,
    )
    state, _ = _descend(solver, jnp.zeros(OUTER), jnp.zeros(INNER), 50)
    for variable in (state.x, state.y, state.z):
        assert float(jnp.linalg.norm(variable)) <= 0.1 * (1 + 1e-6)


def test_f2sa_is_the_penalty_of_a_growing_multiplier():
    outer, inner, _, _ = _degenerate(0.1)
    solver = f2sa(
        outer, inner, outer_optimizer=optax.sgd(0.1), inner_optimizer=optax.sgd(0.1), inner_steps=1
    )
    x, y = jnp.ones(OUTER), jnp.ones(INNER)
    state, _ = _descend(solver, x, y, 2)
    z, y_ = y, y
    for t in range(2):
        multiplier = 1 + 0.1 * t
        y_ = y_ - 0.1 * (
            jax.grad(outer, 1)(x, y_, None) + multiplier * jax.grad(inner, 1)(x, y_, None)
        )
        z = z - 0.1 * jax.grad(inner, 1)(x, z, None)
        difference = jax.grad(inner)(x, y_, None) - jax.grad(inner)(x, z, None)
        x = x - 0.1 * (jax.grad(outer)(x, y_, None) + multiplier * difference)
    np.testing.assert_allclose(state.x, x, rtol=2e-5)
    np.testing.assert_allclose(state.y, y_, rtol=2e-5)


def _value_gap_toy():
    def outer(x, y, batch):
        return jnp.cos(4 * y + 2) / (1 + jnp.exp(2 - 4 * x)) + 0.5 * jnp.log((4 * x - 2) ** 2 + 1)

    def inner(x, y, batch):
        return (x + y) ** 2 + x * jnp.sin(x + y) ** 2

    return outer, inner


@pytest.mark.usefixtures("_x64")
@pytest.mark.parametrize(
    ("multiplier", "minima"),
    [
        (10.0, [(0.36697, -0.33352), (1.18849, -1.21302), (2.82400, -2.82956)]),
        (100.0, [(0.38091, -0.37831), (1.21257, -1.21495), (2.82908, -2.82963)]),
    ],
)
def test_vpbgd_finds_the_minima_of_the_penalised_toy(multiplier, minima):
    rate = 0.05 / multiplier
    solver = vpbgd(
        *_value_gap_toy(),
        outer_optimizer=optax.sgd(rate),
        inner_optimizer=optax.sgd(rate),
        value_optimizer=optax.sgd(0.1),
        value_steps=60,  # an inexact w would shift the first, flat minimum
        multiplier=multiplier,
        project_outer=lambda x: jnp.clip(x, 0.0, 3.0),
    )

    @jax.jit
    @jax.vmap
    def loop(x):
        state = solver.init(jax.random.key(0), x, -x)
        return jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=16000)[0]

    starts = jnp.array([m[0] for m in minima]) + jnp.array([0.1, -0.1, 0.05])
    state = loop(starts)
    np.testing.assert_allclose(jnp.stack([state.x, state.y], 1), jnp.array(minima), atol=2e-5)


def _bome(outer, inner, x, y, steps, rate=0.05):
    solver = bome(
        outer,
        inner,
        outer_optimizer=optax.sgd(rate),
        inner_optimizer=optax.sgd(rate),
        value_optimizer=optax.sgd(0.3),
        value_steps=10,
    )
    return _descend(solver, x, y, steps)[0]


def test_bome_with_many_inner_solutions_finds_the_optimistic_one():
    """y_1 = x and y_2 free: x = y_1 = y_2 = 1 is the best of them."""
    state = _bome(
        lambda x, y, b: 0.5 * (x - y[1]) ** 2 + 0.5 * (y[0] - 1) ** 2,
        lambda x, y, b: 0.5 * y[0] ** 2 - x * y[0],
        jnp.array(0.2),
        jnp.array([2.0, -1.0]),
        2000,
    )
    np.testing.assert_allclose([state.x, *state.y], [1.0, 1.0, 1.0], atol=2e-3)


def test_bome_on_the_coreset_toy():
    """The inner solution is a point of the convex hull: the nearest to x_0 is found."""
    corners = jnp.array([[1.0, 3.0], [3.0, 1.0], [-2.0, 2.0], [-3.0, 2.0]])
    target = jnp.array([3.0, -2.0])

    def mix(w):
        return jax.nn.softmax(w) @ corners

    state = _bome(
        lambda w, y, b: 0.1 * jnp.sum((y - target) ** 2),
        lambda w, y, b: jnp.sum((y - mix(w)) ** 2),
        jnp.zeros(4),
        jnp.zeros(2),
        4000,
    )
    # The hull's nearest point to (3, -2) is its corner (3, 1).
    np.testing.assert_allclose(mix(state.x), [3.0, 1.0], atol=0.1)
    np.testing.assert_allclose(state.y, mix(state.x), atol=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda s: penalty(*_value_gap_toy(), outer_optimizer=s, inner_optimizer=s, sigma=0.0),
            "sigma",
        ),
        (
            lambda s: f2sa(*_value_gap_toy(), outer_optimizer=s, inner_optimizer=s, inner_steps=0),
            "inner_steps",
        ),
        (
            lambda s: vpbgd(
                *_value_gap_toy(),
                outer_optimizer=s,
                inner_optimizer=s,
                value_optimizer=s,
                multiplier=1.0,
                penalize="gap",
            ),
            "penalize must be",
        ),
        (
            lambda s: bome(
                *_value_gap_toy(),
                outer_optimizer=s,
                inner_optimizer=s,
                value_optimizer=s,
                barrier=0.0,
            ),
            "barrier must lie",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(optax.sgd(0.1))


def test_z_may_have_an_optimizer_of_its_own():
    def outer(x, y, batch):
        return (y - 1.0) ** 2

    def inner(x, y, batch):
        return (y - 2.0 * x) ** 2

    sgd = optax.sgd(0.1)
    levels = {"outer_optimizer": sgd, "inner_optimizer": sgd, "pure_optimizer": optax.sgd(0.25)}
    solver = penalty(outer, inner, sigma=0.5, **levels)
    state = solver.init(jax.random.key(0), jnp.array(0.5), jnp.array(3.0))
    state, _ = solver.step(state, None, None)
    # z = 3 - 0.25 * 4, and y = 3 - 0.1 * (0.5 * 4 + 4).
    np.testing.assert_allclose((state.y, state.z), (2.4, 2.0), rtol=1e-5)
