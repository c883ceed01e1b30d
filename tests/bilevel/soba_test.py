"""SOBA, SABA, SRBA: one step by hand, the solution, any optimizer, sharded data, checkpoints."""

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optlab
from optlab.bilevel import saba, soba, spider, srba
from tests.bilevel.quadratics import BATCHES, OPTIMIZERS, QUADRATIC, distance, run, zeros
from tests.multi_device import mesh

PROBLEM = tuple(QUADRATIC.problem)


def test_one_step_is_its_formula():
    x, y, v = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(((3,), (6,), (6,))))
    rates = {"outer_optimizer": 0.3, "inner_optimizer": 0.2, "linear_optimizer": 0.1}
    solver = soba(*PROBLEM, **{k: optax.sgd(r) for k, r in rates.items()})
    state = solver.init(jax.random.key(0), x, y)._replace(v=v)
    new, info = solver.step(state, QUADRATIC.outer_data, QUADRATIC.inner_data)
    a, b, c = (m.mean(0) for m in QUADRATIC.inner_data)
    t = QUADRATIC.outer_data.mean(0)
    # g_xy v = -B^T v
    np.testing.assert_allclose(new.y, y - 0.2 * (a @ y - b @ x - c), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(new.v, v - 0.1 * (a @ v - (y - t)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(new.x, x - 0.3 * (0.1 * x + b.T @ v), rtol=1e-5, atol=1e-5)
    assert float(info.outer_norm) == pytest.approx(
        float(jnp.linalg.norm(0.1 * x + b.T @ v)), rel=1e-5
    )


def test_variance_reduction_removes_the_noise_floor():
    noisy = distance(run(soba(*PROBLEM, **OPTIMIZERS), 3000)[0])
    memory = saba(*PROBLEM, outer_batches=BATCHES, inner_batches=BATCHES, **OPTIMIZERS)
    assert distance(run(memory, 3000)[0]) < 1e-5
    assert distance(run(srba(*PROBLEM, **OPTIMIZERS), 3000, period=20)[0]) < 1e-5
    assert 1e-3 < noisy < 0.5


@pytest.mark.parametrize("name", ["outer_batches", "inner_batches"])
def test_saba_names_the_number_it_refuses(name):
    numbers = {"outer_batches": 1, "inner_batches": 1, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1"):
        saba(*PROBLEM, **numbers, **OPTIMIZERS)


def test_one_joint_direction_is_that_of_its_parts():
    parts = soba(*PROBLEM, **OPTIMIZERS, outer_direction=spider(), inner_direction=spider())
    expected, _ = run(parts, 40, period=20)
    state, _ = run(srba(*PROBLEM, **OPTIMIZERS, paired=True), 40, period=20)
    for name in ("x", "y", "v"):
        np.testing.assert_allclose(
            getattr(state, name), getattr(expected, name), rtol=1e-4, atol=1e-5
        )


def test_a_full_step_may_take_its_data_in_batches():
    whole, parts = (srba(*PROBLEM, **OPTIMIZERS, full_in_batches=b) for b in (False, True))
    data = (QUADRATIC.outer_data, QUADRATIC.inner_data)
    start = whole.init(jax.random.key(0), *zeros())
    start = start._replace(v=jnp.ones_like(start.v))

    def stacked(tree):
        return jax.tree.map(lambda a: a.reshape(BATCHES, -1, *a.shape[1:]), tree)

    full = {name: stacked(d) for name, d in zip(("outer_full", "inner_full"), data, strict=True)}
    expected, _ = whole.step(start, *data, outer_full=data[0], inner_full=data[1])
    state, _ = jax.jit(parts.step)(start, *data, **full)
    for name in ("x", "y", "v"):
        np.testing.assert_allclose(getattr(state, name), getattr(expected, name), rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [optax.adamw, lambda r: optlab.lion_k(optax.cosine_decay_schedule(r, 1500)), optax.adabelief],
    ids=["adamw", "lion_k", "adabelief"],
)
def test_any_optimizer_at_each_level(make):
    optimizers = {name: make(0.02) for name in OPTIMIZERS}
    state, _ = run(soba(*PROBLEM, **optimizers), 1500, batched=False)
    assert distance(state) < 0.1


def test_projections_hold_at_every_step():
    def clip(tree):
        return jnp.clip(tree, -0.05, 0.05)

    solver = soba(*PROBLEM, **OPTIMIZERS, project_outer=clip, project_inner=clip)
    state = solver.init(jax.random.key(0), *zeros())
    for _ in range(3):
        state, _ = solver.step(state, QUADRATIC.outer_data, QUADRATIC.inner_data)
        assert float(jnp.abs(state.x).max()) <= 0.05
        assert float(jnp.abs(state.y).max()) <= 0.05


def test_a_run_goes_on_from_a_checkpoint_in_the_same_bits():
    solver = saba(*PROBLEM, outer_batches=BATCHES, inner_batches=BATCHES, **OPTIMIZERS)
    middle, _ = run(solver, 50)
    stored = flax.serialization.to_bytes(middle)
    restored = flax.serialization.from_bytes(solver.init(jax.random.key(7), *zeros()), stored)
    ends = (run(solver, 50, state=s)[0] for s in (middle, jax.tree.map(jnp.asarray, restored)))
    for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("axis_type", list(jax.sharding.AxisType)[:2], ids=str)
def test_sharded_data_gives_the_result_of_one_device(axis_type):
    devices = mesh(axis_type)
    solver = soba(*PROBLEM, **OPTIMIZERS)
    state = solver.init(jax.random.key(0), *zeros())
    data = QUADRATIC.outer_data, QUADRATIC.inner_data
    alone, _ = solver.step(state, *data)
    with jax.set_mesh(devices):
        rows = jax.sharding.NamedSharding(devices, jax.P("x"))
        whole = jax.sharding.NamedSharding(devices, jax.P())
        split, _ = jax.jit(solver.step)(
            jax.device_put(state, whole), *jax.tree.map(lambda a: jax.device_put(a, rows), data)
        )
    for a, b in zip(jax.tree.leaves(split), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_donated_state_does_not_take_the_callers_arrays():
    x, y = zeros()
    solver = soba(*PROBLEM, **OPTIMIZERS)
    step = jax.jit(solver.step, donate_argnums=0)
    step(solver.init(jax.random.key(0), x, y), QUADRATIC.outer_data, QUADRATIC.inner_data)
    assert not x.is_deleted()
    assert not y.is_deleted()


def test_bad_input_is_named():
    solver = soba(lambda x, y, b: y, PROBLEM[1], **OPTIMIZERS)
    state = solver.init(jax.random.key(0), *zeros())
    with pytest.raises(ValueError, match="outer must return one scalar"):
        solver.step(state, QUADRATIC.outer_data, QUADRATIC.inner_data)
    uneven = (QUADRATIC.inner_data[0][:5], *QUADRATIC.inner_data[1:])
    with pytest.raises(ValueError, match="inner_batch must have leaves of one leading size"):
        soba(*PROBLEM, **OPTIMIZERS).step(state, QUADRATIC.outer_data, uneven)
    memory = saba(*PROBLEM, outer_batches=2, inner_batches=2, **OPTIMIZERS)
    start = memory.init(jax.random.key(0), *zeros())
    with pytest.raises(ValueError, match="index must be given"):
        memory.step(start, QUADRATIC.outer_data, QUADRATIC.inner_data)
    with pytest.raises(ValueError, match="joint_direction must be the only direction"):
        soba(*PROBLEM, **OPTIMIZERS, joint_direction=spider(), inner_direction=spider())
    solver = srba(*PROBLEM, **OPTIMIZERS)
    state = solver.init(jax.random.key(0), *zeros())
    whole = QUADRATIC.outer_data, QUADRATIC.inner_data
    with pytest.raises(ValueError, match="outer_full and inner_full must be given together"):
        solver.step(state, *whole, outer_full=whole[0])
