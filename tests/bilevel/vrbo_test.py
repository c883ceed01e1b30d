"""VRBO: its recursion written out, and the solution that batches with full passes reach."""

import jax
import numpy as np
import optax
import pytest

from optlab import hypergrad
from optlab.bilevel import vrbo
from tests.bilevel.quadratics import BATCHES, QUADRATIC, distance, run, zeros

PROBLEM = tuple(QUADRATIC.problem)
OPTIONS = {
    "outer_optimizer": optax.sgd(0.3),
    "inner_optimizer": optax.sgd(0.1),
    "terms": 30,
    "neumann_step": 0.2,
    "inner_steps": 2,
}
BATCHED = jax.tree.map(
    lambda a: a.reshape(BATCHES, -1, *a.shape[1:]), (QUADRATIC.outer_data, QUADRATIC.inner_data)
)


def test_two_steps_are_their_formula():
    solver = vrbo(*PROBLEM, **OPTIONS, fresh_batches=True)
    estimator = hypergrad.neumann(30, 0.2, tolerance=None)

    @jax.jit
    def oracle(x, y, outer_batch, inner_batch):
        h, _ = estimator.estimate(*PROBLEM, x, y, outer_batch, inner_batch)
        return jax.grad(PROBLEM[1], argnums=1)(x, y, inner_batch), h

    x, y = jax.random.normal(jax.random.key(1), (3,)), zeros()[1]
    state = solver.init(jax.random.key(0), x, y)
    full = QUADRATIC.outer_data, QUADRATIC.inner_data
    s, u = oracle(x, y, *full)
    old = x, y
    for k in range(2):
        batches = jax.tree.map(lambda a, k=k: a[3 * k : 3 * k + 3], BATCHED)
        given = {} if k else {"outer_full": full[0], "inner_full": full[1]}
        state, info = jax.jit(solver.step)(state, *batches, **given)
        x = x - 0.3 * u
        norm = np.linalg.norm(u)
        for t in range(3):
            batch = jax.tree.map(lambda a, t=t: a[t], batches)
            (s_new, u_new), (s_old, u_old) = oracle(x, y, *batch), oracle(*old, *batch)
            s, u, old = s + s_new - s_old, u + u_new - u_old, (x, y)
            if t < 2:
                y = y - 0.1 * s
        np.testing.assert_allclose(state.x, x, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state.y, y, rtol=1e-4, atol=1e-5)
        assert float(info.outer_norm) == pytest.approx(norm, rel=1e-4)


def test_full_passes_remove_the_noise_floor():
    assert distance(run(vrbo(*PROBLEM, **OPTIONS), 400, period=10)[0]) < 1e-4


def test_bad_input_is_named():
    solver = vrbo(*PROBLEM, **OPTIONS, fresh_batches=True)
    state = solver.init(jax.random.key(0), *zeros())
    with pytest.raises(ValueError, match="outer_batch must have a leading axis of 3, one a diff"):
        solver.step(state, *BATCHED)
    three = jax.tree.map(lambda a: a[:3], BATCHED)
    with pytest.raises(ValueError, match="outer_full and inner_full must be given together"):
        solver.step(state, *three, outer_full=QUADRATIC.outer_data)
