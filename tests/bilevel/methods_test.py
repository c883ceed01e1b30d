"""Methods made of an engine and a direction: they solve the quadratics and are what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab.bilevel import fsla, mrbo, soba, stocbio, sustain, ttsa
from tests.bilevel.quadratics import OPTIMIZERS, QUADRATIC, distance, run, zeros

PROBLEM = tuple(QUADRATIC.problem)
LEVELS = {"outer_optimizer": optax.sgd(1.0), "inner_optimizer": optax.sgd(0.1)}
FALLING = {
    "outer_optimizer": optax.sgd(lambda t: 20.0 / (t + 40.0)),
    "inner_optimizer": optax.sgd(0.1),
}
SERIES = {"terms": 30, "neumann_step": 0.2}


@pytest.mark.parametrize(
    ("solver", "steps", "tolerance"),
    [
        (
            fsla(*PROBLEM, **{**OPTIMIZERS, "outer_optimizer": optax.sgd(0.5)}, weight=0.3),
            500,
            1e-3,
        ),
        (stocbio(*PROBLEM, **LEVELS, **SERIES), 300, 1e-2),
        (mrbo(*PROBLEM, **LEVELS, **SERIES, weight=0.3), 300, 1e-2),
        # One random term of the series has a variance that falling steps average out.
        (ttsa(*PROBLEM, **FALLING, terms=15, neumann_step=0.2), 2000, 0.1),
        (sustain(*PROBLEM, **FALLING, terms=15, neumann_step=0.2, weight=0.1), 2000, 0.1),
    ],
    ids=["fsla", "stocbio", "mrbo", "ttsa", "sustain"],
)
def test_solves_the_quadratics(solver, steps, tolerance):
    assert distance(run(solver, steps, batched=False)[0]) < tolerance


def test_fsla_of_weight_one_is_soba():
    ends = (
        run(solver, 20)[0]
        for solver in (fsla(*PROBLEM, **OPTIMIZERS, weight=1.0), soba(*PROBLEM, **OPTIMIZERS))
    )
    for name, (a, b) in zip("xyv", zip(*(s[:3] for s in ends), strict=True), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=name)


def test_recursive_momentum_is_that_of_the_hypergradient():
    """Two steps of FSLA, written out."""
    solver = fsla(*PROBLEM, **OPTIMIZERS, weight=0.25)
    state = solver.init(jax.random.key(0), *zeros())
    halves = [
        jax.tree.map(
            lambda a, i=i: a[32 * i : 32 * (i + 1)], (QUADRATIC.outer_data, QUADRATIC.inner_data)
        )
        for i in range(2)
    ]
    step = jax.jit(solver.step)
    first, _ = step(state, *halves[0])
    second, _ = step(first, *halves[1])

    def h(s, half):
        return 0.1 * s.x + half[1][1].mean(0).T @ s.v

    direction = h(first, halves[1]) + 0.75 * (h(state, halves[0]) - h(state, halves[1]))
    np.testing.assert_allclose(second.x, first.x - 0.1 * direction, rtol=1e-4, atol=1e-6)


def test_sampled_terms_are_right_in_the_mean():
    solver = ttsa(*PROBLEM, **LEVELS, terms=15, neumann_step=0.2)
    series = stocbio(*PROBLEM, **LEVELS, terms=14, neumann_step=0.2, inner_steps=1)

    @jax.jit
    @jax.vmap
    def steps(key):
        start = jnp.ones(3), jnp.ones(6)
        return solver.step(solver.init(key, *start), QUADRATIC.outer_data, QUADRATIC.inner_data)[
            0
        ].x

    drawn = steps(jax.random.split(jax.random.key(3), 4000))
    exact, _ = jax.jit(series.step)(
        series.init(jax.random.key(0), jnp.ones(3), jnp.ones(6)),
        QUADRATIC.outer_data,
        QUADRATIC.inner_data,
    )
    error = np.abs(drawn.mean(0) - exact.x)
    assert (error < 4 * np.asarray(drawn.std(0)) / np.sqrt(4000)).all()
