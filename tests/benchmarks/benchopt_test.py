"""The plug-ins for benchopt/benchmark_bilevel: their loops without benchopt, all of it with."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.benchopt import compare, loop
from optlab.bilevel import alternating, soba
from optlab.hypergrad import neumann

SIZES = {"outer": 3, "inner": 4}
SAMPLERS = {}
for _level, _size in SIZES.items():

    def _sample(state, size=_size):
        """As the benchmark's: it writes into the state that it is given."""
        start = 2 * (state["i"] * 7 % size)
        state["i"] = state["i"] + 1
        return start, start // 2, 1.0, state

    SAMPLERS[_level] = _sample
STATES = {level: {"i": jnp.zeros((), jnp.int32)} for level in SIZES}
DATA = {level: jax.random.normal(jax.random.key(n), (2 * n, 2)) for level, n in SIZES.items()}


def _expected(level, count):
    return [2 * (i * 7 % SIZES[level]) for i in range(count)]


def _objective(level):
    """In the benchmark's order of arguments."""

    def f(inner_var, outer_var, start=0, batch_size=2):
        rows = jax.lax.dynamic_slice_in_dim(DATA[level], start, batch_size)
        weight = 1.0 if level == "inner" else 0.0
        fit = jnp.mean(jnp.sum((inner_var[None] - rows) ** 2, axis=1))
        return fit + weight * jnp.sum(outer_var * inner_var)

    return f


OUTER, INNER = (loop.objective(_objective(level), 2 * n) for level, n in SIZES.items())


def test_an_objective_swaps_its_variables_and_knows_the_whole():
    x, y = jnp.ones(2), jnp.full(2, 3.0)
    assert INNER(x, y, 2) == _objective("inner")(y, x, 2)
    assert INNER(x, y, loop.WHOLE) == _objective("inner")(y, x, 0, batch_size=8)


def test_parts_are_equal_and_make_up_all_data():
    x, y = jnp.ones(2), jnp.full(2, 3.0)
    assert [loop.count_of_parts(sizes, 4) for sizes in ((8, 8), (6, 8), (7, 8), (3, 3, 4))] == [
        2, 2, 1, 1
    ]  # fmt: skip
    inner = loop.objective(_objective("inner"), 8, parts=4)
    parts = [inner(x, y, loop.Part(jnp.asarray(i))) for i in range(4)]
    np.testing.assert_allclose(sum(parts) / 4, INNER(x, y, loop.WHOLE), rtol=1e-6)


def test_draws_come_in_the_order_of_the_sampler():
    draws = loop.Draws(SAMPLERS, STATES)
    first = draws.one("inner")
    more = draws.starts("inner", 3)
    some = jax.jit(lambda n: loop.Draws(SAMPLERS, draws.states).starts_up_to("inner", n, 4))(2)
    expected = _expected("inner", 6)
    assert [int(first.start), *more.tolist(), *some.tolist()] == [*expected, 0, 0]
    assert int(first.index) == expected[0] // 2
    assert int(draws.one("outer").start) == 0
    assert int(draws.states["inner"]["i"]) == 4
    assert int(STATES["inner"]["i"]) == 0  # what was given is not written into


def test_sizes_fall_by_steps_of_the_solver():
    schedule = loop.falling(0.6, 0.5, updates=2)
    found = [float(schedule(jnp.asarray(t))) for t in range(5)]
    np.testing.assert_allclose(found, 0.6 / np.sqrt([1, 1, 2, 2, 3]), rtol=1e-6)


def _soba():
    levels = {f"{k}_optimizer": loop.sgd(0.1, 0.5) for k in ("outer", "inner", "linear")}
    return soba(OUTER, INNER, **levels)


def _arguments(state, draws):
    return state, (draws.one("outer").start, draws.one("inner").start), {}


def test_an_epoch_is_the_benchmarks_loop():
    """SOBA written out in the benchmark's terms: its v has the other sign."""
    solver = _soba()
    carry = (solver.init(jax.random.key(0), jnp.ones(2), jnp.zeros(2)), STATES)
    epoch = loop.epochs(loop.stepper(solver, SAMPLERS, _arguments))
    for _ in range(2):
        carry = epoch(carry, 3)
    f, g = (_objective(level) for level in SIZES)
    y, x, v = jnp.zeros(2), jnp.ones(2), jnp.zeros(2)
    for t, (i, j) in enumerate(zip(_expected("outer", 6), _expected("inner", 6), strict=True)):
        g_y, pull = jax.vjp(lambda y, x, j=j: jax.grad(g)(y, x, j), y, x)
        product, cross = pull(v)
        f_y, f_x = jax.grad(f, argnums=(0, 1))(y, x, i)
        rate = 0.1 / (t + 1) ** 0.5
        y, v, x = y - rate * g_y, v - rate * (product + f_y), x - rate * (f_x + cross)
    state = carry[0]
    np.testing.assert_allclose(state.y, y, rtol=1e-6)
    np.testing.assert_allclose(state.x, x, rtol=1e-6)
    np.testing.assert_allclose(state.v, -v, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("lengths", [(4, 4, 4), (7, 5), (1, 11)])
def test_full_steps_come_once_a_period(lengths):
    def step(carry, options):
        del options
        log, states = carry
        return (log.at[states["taken"]].set(1), {"taken": states["taken"] + 1}), None

    def full_step(carry):
        log, states = carry
        return log.at[states["taken"]].set(2), {"taken": states["taken"] + 1}

    epoch = loop.periodic_epochs(step, full_step, 3)
    carry = (jnp.zeros(12, jnp.int32), {"taken": jnp.zeros((), jnp.int32)}, 0)
    for length in lengths:
        carry = epoch(carry, length)
    assert carry[0].tolist() == [2, 1, 1] * 4
    assert int(carry[2]) == 12


def test_a_key_of_the_table_draws_its_term():
    terms, rate, x, y = 3, 0.1, jnp.ones(2), jnp.zeros(2)
    estimator = neumann(terms, rate, randomized=True, tolerance=None)
    sgd = optax.sgd(1.0)
    solver = alternating(
        OUTER, INNER, outer_optimizer=sgd, inner_optimizer=sgd, estimator=estimator, inner_steps=0
    )
    state = solver.init(jax.random.key(0), x, y)
    step = jax.jit(lambda key: solver.step(state._replace(key=key), 0, 0)[0].x)
    f_y = jax.grad(OUTER, argnums=1)(x, y, 0)
    for p, key in enumerate(loop.draws_of_terms(terms)):
        # g_yy is 2 I and g_xy is I.
        v = terms * rate * (1 - 2 * rate) ** p * f_y
        np.testing.assert_allclose(step(key), x + v, rtol=1e-5)


def test_the_table_shows_differences_and_ratios():
    theirs, ours = {"wall": 20.0, "cpu": 10.0}, {"wall": 20.0, "cpu": 5.0}
    text = compare.table(
        {
            "versions": {"jax": "0"},
            "cpu_count": 2,
            "load": [1.0, 2.0],
            "date": "2026-11-21T00:00:00",
            "equality": [{"method": "soba", "steps": 8, "difference": 1e-16}],
            "times": [{"dataset": "d", "method": "soba", "theirs": theirs, "ours": ours}],
        }
    )
    assert "| soba | 8 | 1.0e-16 |" in text
    assert "| d | soba | 20 | 10 | 20 | 5 | 1.00 | 0.50 |" in text


@pytest.mark.slow
def test_iterates_are_theirs_to_rounding():
    """Needs benchopt, and a clone of its benchmark in BENCHMARK_BILEVEL."""
    pytest.importorskip("benchopt", reason="benchopt is not installed")
    if "BENCHMARK_BILEVEL" not in os.environ:
        pytest.skip("BENCHMARK_BILEVEL names no clone of benchopt/benchmark_bilevel")
    for row in compare.equality(pathlib.Path(os.environ["BENCHMARK_BILEVEL"]), 24):
        assert row["difference"] < 1e-12, row
