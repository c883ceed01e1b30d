"""LV-HBA on its closed form, whose inner solutions are many, and its constraint at every step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab.bilevel import lv_hba

N = 100


def _outer(x, y, batch):
    return 0.5 * jnp.sum((x - y["b"]) ** 2) + 0.5 * jnp.sum((y["a"] - 1.0) ** 2)


def _inner(x, y, batch):
    return 0.5 * jnp.sum(y["a"] ** 2) - x @ y["a"] + jnp.sum(y["b"])


def _constraint(x, y):
    return (jnp.sum(x) + jnp.sum(y["a"]) + jnp.sum(y["b"])) / jnp.sqrt(3.0 * N)


def _project(point):
    """Onto the plane on which all 3n entries add up to zero."""
    x, y = point
    mean = (jnp.sum(x) + jnp.sum(y["a"]) + jnp.sum(y["b"])) / (3 * N)
    return jax.tree.map(lambda leaf: leaf - mean, (x, y))


def _solver(**options):
    return lv_hba(
        _outer,
        _inner,
        _constraint,
        outer_optimizer=optax.sgd(0.05),
        inner_optimizer=optax.sgd(0.05),
        saddle_rate=0.05,
        center_rate=0.05,
        outer_weight=lambda k: 10.0 * (k + 1.0) ** 0.3,
        **{"equality": True, "project": _project, **options},
    )


def _start(solver):
    ones = jnp.ones(N)
    state = solver.init(jax.random.key(0), 10 * ones, {"a": 10 * ones, "b": 10 * ones})
    return state._replace(theta={"a": ones, "b": ones})


def test_the_closed_form():
    """x* = -0.3, y_1* = 0.7, y_2* = -0.4 in every entry, and f* = 0.05 n."""
    solver = _solver()
    state, info = jax.jit(
        lambda s: jax.lax.scan(lambda s, _: solver.step(s, None, None), s, length=5000)
    )(_start(solver))
    solution = np.concatenate([np.full(N, v) for v in (-0.3, 0.7, -0.4)])
    found = np.concatenate([state.x, state.y["a"], state.y["b"]])
    scale = np.linalg.norm(solution)
    assert np.linalg.norm(found - solution) < 3e-3 * scale
    assert float(_outer(state.x, state.y, None)) == pytest.approx(0.05 * N, rel=2e-2)
    assert float(jnp.max(info.linear_norm)) < 1e-4  # the constraint, at every step


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="gamma1 must lie"):
        _solver(gamma1=0.0)
    solver = lv_hba(
        _outer,
        _inner,
        lambda x, y: (x, y),
        outer_optimizer=optax.sgd(0.05),
        inner_optimizer=optax.sgd(0.05),
        saddle_rate=0.05,
        center_rate=0.05,
        outer_weight=1.0,
    )
    with pytest.raises(ValueError, match="constraint must give one array"):
        _start(solver)


def test_a_constraint_that_no_point_meets_is_named():
    options = {
        "outer_optimizer": optax.sgd(0.05),
        "inner_optimizer": optax.sgd(0.05),
        "saddle_rate": 0.05,
        "center_rate": 0.05,
        "outer_weight": 1.0,
    }
    solver = lv_hba(_outer, _inner, lambda x, y: 1.0 + x**2, **options)
    with pytest.raises(ValueError, match=r"project must .* misses it by 101.0 at the start"):
        _start(solver)
    solver = lv_hba(
        _outer, _inner, _constraint, **options, project=lambda p: jax.tree.map(jnp.log, (p, p))[0]
    )
    with pytest.raises(ValueError, match="project must give a point that meets the constraint"):
        _start(solver)
    solver = lv_hba(
        _outer, _inner, _constraint, **options, project=lambda p: jax.tree.map(lambda v: v / 0, p)
    )
    with pytest.raises(ValueError, match="project gives numbers that are not finite"):
        _start(solver)


def test_the_rounding_of_large_numbers_is_no_violation():
    """A budget of 1e5 in float32 cannot be met to better than some 0.01."""
    budget = 1e5
    levels = {"outer_optimizer": optax.sgd(0.1), "inner_optimizer": optax.sgd(0.1)}
    rates = {"saddle_rate": 0.1, "center_rate": 0.1, "outer_weight": 1.0}
    solver = lv_hba(
        _outer,
        _inner,
        lambda x, y: jnp.sum(y) - budget,
        equality=True,
        project=lambda p: (p[0], p[1] - (jnp.sum(p[1]) - budget) / p[1].size),
        **levels,
        **rates,
    )
    start = jnp.asarray(np.random.default_rng(0).uniform(0, 300, (5, 1000)), jnp.float32)
    for y in start:
        assert abs(float(jnp.sum(solver.init(jax.random.key(0), y, y).y)) - budget) < 0.1
