"""On four devices: no collective, the result of one device, restoring on another mesh."""

import re
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from orbax.checkpoint import v1 as ocp

from optlab.transforms import quantized
from tests.multi_device import blocking

SHAPES = {"a": (256, 1024), "b": (64, 512), "small": (8,)}
SPECS = {
    "rows": {"a": P("x", None), "b": P("x", None), "small": P()},
    "columns": {"a": P(None, "x"), "b": P(None, "x"), "small": P()},
    "both": {"a": P("x", "y"), "b": P("y", "x"), "small": P()},
}
COLLECTIVE = re.compile(r"(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\(")
STEPS = 2


def problem():
    rng = np.random.default_rng(0)

    def draw():
        return {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in SHAPES.items()}

    return draw(), [draw() for _ in range(STEPS)]


def mesh_of(axis_type):
    if jax.device_count() < 4:
        pytest.skip("needs 4 devices")
    return jax.make_mesh((2, 2), ("x", "y"), axis_types=(axis_type,) * 2, devices=jax.devices()[:4])


def run(tx, step, params, gradients):
    state = tx.init(params)
    for gradient in gradients:
        params, state = step(params, gradient, state)
    return params, state


# Blocks of 256 in "a", of 256 in the halves of "b": no block straddles two devices.
TX = quantized.adamw8bit(1e-2, shards=2)


@pytest.fixture(scope="module")
def on_one_device():
    return run(TX, jax.jit(TX.step), *problem())


AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit


@pytest.mark.parametrize(
    ("axis_type", "layout"),
    [
        (AUTO, "columns"),
        (EXPLICIT, "both"),
        *[pytest.param(*case, marks=pytest.mark.slow) for case in ((AUTO, "rows"), (AUTO, "both"))],
        *[pytest.param(EXPLICIT, axes, marks=pytest.mark.slow) for axes in ("rows", "columns")],
    ],
)
def test_sharded_steps_need_no_collective(axis_type, layout, on_one_device):
    mesh = mesh_of(axis_type)
    shardings = {n: NamedSharding(mesh, spec) for n, spec in SPECS[layout].items()}
    params, gradients = problem()
    with jax.set_mesh(mesh):
        params = jax.device_put(params, shardings)
        gradients = [jax.device_put(g, shardings) for g in gradients]
        # On automatic axes a traced array does not know where it lies.
        told = {} if axis_type == EXPLICIT else {"shardings": shardings}

        def step(params, gradients, state):
            return TX.step(params, gradients, state, **told)

        compiled = jax.jit(step).lower(params, gradients[0], TX.init(params)).compile()
        params, state = run(TX, blocking(compiled), params, gradients)
    assert not COLLECTIVE.search(compiled.as_text())
    for name, leaf in params.items():
        np.testing.assert_allclose(leaf, on_one_device[0][name], rtol=0, atol=1e-6)
        for moment in (state.inner[0].mu[name], state.inner[0].nu[name]):
            for part in jax.tree.leaves(moment):
                assert part.sharding.is_equivalent_to(shardings[name], part.ndim)
    wanted = on_one_device[1].inner[0].mu["a"]
    np.testing.assert_array_equal(state.inner[0].mu["a"].code, wanted.code)


@pytest.mark.slow
@pytest.mark.parametrize("axis_type", [AUTO, EXPLICIT])
def test_sharded_updates_in_place_need_no_collective(axis_type):
    mesh = mesh_of(axis_type)
    shardings = {n: NamedSharding(mesh, spec) for n, spec in SPECS["both"].items()}
    params, (gradients, *_) = problem()
    with jax.set_mesh(mesh):
        params, gradients = (jax.device_put(x, shardings) for x in (params, gradients))
        told = {} if axis_type == EXPLICIT else {"shardings": shardings}

        def update(gradients, state, params):
            return TX.update(gradients, state, params, in_place=True, **told)

        args = gradients, TX.init(params), params
        compiled = jax.jit(update, donate_argnums=(0, 1)).lower(*args).compile()
        want, _ = TX.update(*args)
        found, _ = blocking(compiled)(*args)
    assert not COLLECTIVE.search(compiled.as_text())
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf, want[name], rtol=0, atol=1e-6)
        assert leaf.sharding.is_equivalent_to(shardings[name], leaf.ndim)


def test_straddling_blocks_take_the_plain_update(on_one_device):
    mesh = mesh_of(AUTO)
    tx = quantized.adamw8bit(1e-2, codec="power8(block=512)", shards=1)
    params, gradients = problem()
    want, _ = run(tx, jax.jit(tx.step), params, gradients)
    shardings = {n: NamedSharding(mesh, spec) for n, spec in SPECS["columns"].items()}
    placed = jax.device_put(params, shardings)

    def step(*args):
        return tx.step(*args, shardings=shardings)

    found, _ = run(tx, blocking(jax.jit(step)), placed, gradients)
    np.testing.assert_allclose(found["b"], want["b"], rtol=0, atol=1e-6)


def test_state_is_restored_on_another_mesh(on_one_device):
    mesh = mesh_of(AUTO)
    params, state = on_one_device
    shardings = {n: NamedSharding(mesh, spec) for n, spec in SPECS["columns"].items()}
    placed = jax.device_put(params, shardings)
    whole = NamedSharding(mesh, P())
    like = jax.tree.map(
        lambda x: x if len(x.sharding.device_set) > 1 else jax.device_put(x, whole),
        TX.init(placed),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder).absolute() / "state"
        ocp.save(path, state)
        restored = ocp.load(path, like)
    quantized.check_codecs(restored, like)
    code = restored.inner[0].mu["a"].code
    assert code.sharding.is_equivalent_to(shardings["a"], 2)
    gradients = problem()[1][0]
    want, _ = jax.jit(TX.step)(params, gradients, state)
    step = jax.jit(lambda *args: TX.step(*args, shardings=shardings))
    found, _ = blocking(step)(placed, jax.device_put(gradients, shardings), restored)
    np.testing.assert_allclose(found["a"], want["a"], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_leafwise_optimizers_work_sharded():
    mesh = mesh_of(EXPLICIT)
    tx = quantized.lamb8bit(1e-2, shards=2)
    params, gradients = problem()
    want, _ = run(tx, jax.jit(tx.step), params, gradients)
    shardings = {n: NamedSharding(mesh, spec) for n, spec in SPECS["rows"].items()}
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, shardings)
        gradients = [jax.device_put(g, shardings) for g in gradients]
        found, _ = run(tx, blocking(jax.jit(tx.step)), placed, gradients)
    np.testing.assert_allclose(found["a"], want["a"], rtol=0, atol=1e-5)


def test_a_flag_of_python_stays_one():
    def update(updates, state, params=None, *, flip, rate, **extra):
        del params, extra
        return jax.tree.map(lambda g: (rate if flip else -rate) * g, updates), state

    tx = quantized.fused(
        optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    )
    with jax.set_mesh(mesh_of(EXPLICIT)):
        ones = {"w": jax.device_put(jnp.ones((4, 8)), P("x", "y"))}
        new, _ = jax.jit(lambda p: tx.step(p, p, tx.init(p), flip=True, rate=0.5))(ones)
    np.testing.assert_array_equal(new["w"], 1.5)


def test_an_axis_of_one_device_is_an_axis_too():
    """A program for many devices, run on one: the types of arrays name the axis all the same."""
    tx = quantized.fused(optax.adam(1e-3), chunk=1 << 12)
    with jax.set_mesh(jax.make_mesh((1,), ("x",))):
        params = jax.device_put(jnp.ones((2, 3, 16, 512)), P(None, None, "x"))
        jax.eval_shape(lambda p: tx.step(p, p, tx.init(p)), params)
