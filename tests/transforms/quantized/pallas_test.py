"""The kernel of steps in place: interpreted against the engine of XLA, and lowered for CUDA."""

import contextlib
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import optlab
from optlab.transforms import quantized
from optlab.transforms.quantized._pallas import KERNEL_CODECS

# Two leaves for the kernel, one of them with more axes, and one for the engine.
SHAPES = {"matrix": (24, 512), "conv": (2, 4, 8, 256), "bias": (64,)}
CHUNK = 1 << 12  # so that leaves of these sizes are cut


def draw(shapes=None, seed=0):
    rng = np.random.default_rng(seed)
    shapes = SHAPES if shapes is None else shapes
    return {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}


def run(tx, backend, params, steps=2):
    """The params and the state after some steps in one scan."""
    draws = [draw(jax.tree.map(jnp.shape, params), seed) for seed in range(1, steps + 1)]

    def step(carry, grads):
        return tx.step(carry[0], grads, carry[1], backend=backend), None

    run = jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g)[0])
    return run(params, jax.tree.map(lambda *g: jnp.stack(g), *draws))


def assert_same(found, want):
    """On the machine of the authors bit by bit; others may fuse products and sums elsewhere."""
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        assert x.dtype == y.dtype
        if x.dtype in (jnp.int8, jnp.uint8):
            distance = np.abs(np.asarray(x, np.int32) - np.asarray(y, np.int32))
            assert distance.max() <= 1
            assert distance.mean() <= 1e-3
        else:
            # COAT's exponents are logarithms of a block's range: its least entry is what is left of
            # a sum near zero, where a fused multiply-add counts (1.4e-5 seen).
            np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6)


def decays(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


CASES = {
    "adamw": (optax.adamw(1e-2, weight_decay=0.1, mask=decays), "power8"),
    "lion": (optax.lion(1e-2), "dynamic8(block=128)"),
    "schedule": (
        optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(1e-2, 0.0, 5), 0.9),
        "bfloat16",
    ),
    "no_codec": (optax.adam(1e-2), None),
    "two_blocks": (optax.adam(1e-2), {"mu": "flash8", "nu": "power8(signed=False)"}),
    "coat": (optax.rmsprop(1e-2, centered=True, momentum=0.9), "coat8"),
    "float8": (optax.contrib.ademamix(1e-2), "float8"),
    "scale": (optax.adam(1e-2), "power8(p=8, scale_dtype='ue5m3')"),
    "linear": (optax.adagrad(1e-2), "linear8"),
    "adaptive": (optax.adam(1e-2), "adaptive_power8"),
    "partition": (
        optax.partition(
            {"a": optax.adam(1e-2), "b": optax.sgd(1e-2, 0.9)},
            lambda p: {n: "a" if n == "matrix" else "b" for n in p},
        ),
        "power8",
    ),
}
QUICK = ("adamw", "lion")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_steps_are_those_of_the_engine(name):
    tx, codec = CASES[name]
    tx = quantized.fused(tx, codec, chunk=CHUNK)
    assert_same(run(tx, "pallas", draw()), run(tx, "xla", draw()))


@pytest.mark.slow
def test_ready_optimizers_take_it():
    """Through optlab.step, and with leaves above the size at which theirs are cut."""
    params = draw({"w": (160, 512)})
    for tx in (optlab.adamw8bit(1e-2), optlab.lion8bit(1e-2), optlab.sgd8bit(1e-2)):
        found, want = (
            jax.jit(lambda p, tx=tx, b=b: optlab.step(tx, p, p, tx.init(p), backend=b))(params)
            for b in ("pallas", "xla")
        )
        assert_same(found, want)


def test_scalar_arguments_reach_the_kernel():
    def update(updates, state, params=None, *, value, factor, **extra):
        del params, extra
        return jax.tree.map(lambda g: -value * factor * g, updates), state

    tx = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    tx = quantized.fused(tx, chunk=CHUNK)
    params = draw({"w": (24, 512)})
    step = jax.jit(lambda p, v: tx.step(p, p, tx.init(p), backend="pallas", value=v, factor=2.0))
    np.testing.assert_allclose(step(params, 0.25)[0]["w"], 0.5 * params["w"], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [P("x", None), P(None, "x"), P()], ids=["rows", "columns", "all"])
def test_each_device_has_its_own_kernel(spec):
    if jax.device_count() < 4:
        pytest.skip("needs 4 devices")
    mesh = jax.make_mesh((4,), ("x",), devices=jax.devices()[:4])
    params = draw({"w": (64, 1024)})
    tx = quantized.fused(optax.adamw(1e-2), chunk=CHUNK, shards=4)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(params, NamedSharding(mesh, spec))
        found = jax.jit(lambda p: tx.step(p, p, tx.init(p), backend="pallas"))(sharded)
    assert_same(found, jax.jit(lambda p: tx.step(p, p, tx.init(p)))(params))


@pytest.mark.slow
def test_problems_side_by_side():
    tx = quantized.fused(optax.adamw(1e-2), chunk=CHUNK)
    pair = [draw({"w": (24, 512)}, seed) for seed in range(2)]

    def step(backend):
        return lambda p: tx.step(p, p, tx.init(p), backend=backend)

    found = jax.jit(jax.vmap(step("pallas")))(jax.tree.map(lambda *x: jnp.stack(x), *pair))
    for i, params in enumerate(pair):
        assert_same(jax.tree.map(lambda x, i=i: x[i], found), jax.jit(step("xla"))(params))


# jax 0.12 asks what GPU to lower for, and says that Pallas will lose Triton.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:backend='pallas' is interpreted:UserWarning"),
]
BYTES = {"f32": 4, "bf16": 2, "i32": 4, "i16": 2, "ui16": 2, "i8": 1, "ui8": 1}


def lowered(tx, shapes=None):
    """The kernel calls of a step lowered for CUDA, as text."""
    params = draw(shapes)
    h200 = contextlib.nullcontext()
    if hasattr(jax.sharding, "AbstractDevice"):
        device = jax.sharding.AbstractDevice("NVIDIA H200", num_cores=132, platform="gpu")
        mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
        h200 = jax.sharding.use_abstract_mesh(mesh)
    step = jax.jit(lambda p, g, s: tx.step(p, g, s, backend="pallas"), donate_argnums=(0, 2))
    with h200:
        traced = step.trace(params, params, jax.eval_shape(tx.init, params))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    return [line for line in text.splitlines() if "custom_call @__gpu$xla.gpu.triton" in line]


def traffic(call):
    """The bytes that a kernel call reads and writes."""
    arrays = re.findall(r"tensor<([\dx]*?)x?([a-z]+\d+)>", call[call.rindex(" : (") :])
    return sum(math.prod(map(int, s.split("x"))) * BYTES[d] for s, d in arrays)


@pytest.mark.parametrize(
    ("make", "written", "bytes_a_parameter"),
    [(optlab.adamw8bit, 5, 16 + 4 * 4 / 256), (optlab.lion8bit, 3, 14 + 2 * 4 / 256)],
    ids=["adamw", "lion"],
)
def test_one_pass_for_cuda(make, written, bytes_a_parameter):
    """A kernel a leaf, which writes over all but the gradients, and touches every byte once.

    Parameters are read and written, 8 bytes; gradients read, 4; codes read and written, 2 each.
    """
    calls = lowered(make(1e-3), {"a": (256, 512), "b": (128, 1024), "bias": (64,)})
    assert len(calls) == 2
    for call in calls:
        assert call.count("output_operand_alias<") == written
        assert traffic(call) == pytest.approx(bytes_a_parameter * (1 << 17), rel=1e-4)


@pytest.mark.parametrize("codec", [*KERNEL_CODECS, "linear8", "power8(p=8,scale_dtype='ue5m3')"])
def test_its_codecs_lower(codec):
    tx = quantized.fused(optax.adamw(1e-3), codec, chunk=CHUNK)
    assert len(lowered(tx)) == 2


def test_what_it_cannot_do_is_named():
    params = draw({"w": (24, 512)})
    adam, key = optax.adam(1e-3), jax.random.key(0)

    def refused(words, tx, **options):
        options = {"backend": "pallas"} | options
        with pytest.raises(ValueError, match=words):
            jax.eval_shape(lambda p: tx.step(p, p, tx.init(p), **options), params)

    refused("backend must be 'xla' or 'pallas', got 'cuda'", quantized.fused(adam), backend="cuda")
    refused("does not act by entry", optlab.muon8bit(1e-3))
    refused("stochastic rounding", quantized.fused(adam, seed=0))
    refused("stochastic rounding", quantized.fused(adam), rounding=key)
    refused("codec dynamic4: the kernel knows power8", quantized.fused(adam, "dynamic4"))
    refused("codec exact dynamic8", quantized.fused(adam, "dynamic8(exact=True)"))
    refused("inject_hyperparams", optlab.adamw8bit(optax.linear_schedule(1e-3, 0.0, 5)))


def test_the_wrong_device_is_named(monkeypatch):
    tx, params = quantized.fused(optax.sgd(0.1)), draw({"w": (4, 8)})
    with pytest.warns(UserWarning, match="backend='pallas' is interpreted on a CPU"):
        tx.step(params, params, tx.init(params), backend="pallas")
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(ValueError, match="backend must be 'xla' on a TPU"):
        tx.step(params, params, tx.init(params), backend="pallas")


def test_other_leaves_stay_with_the_engine():
    """Blocks of 150 entries or of too many, small leaves, and parameters in bfloat16."""
    tx = quantized.fused(optax.adamw(1e-3), chunk=CHUNK)
    assert not lowered(tx, {"odd": (40, 300), "bias": (64,)})
    long = quantized.fused(optax.adamw(1e-3), "power8(block=4096)", chunk=CHUNK)
    assert not lowered(long, {"w": (8, 4096)})
    low = {"w": jax.ShapeDtypeStruct((24, 512), jnp.bfloat16)}
    jaxpr = jax.make_jaxpr(lambda p: tx.step(p, p, tx.init(p), backend="pallas"))(low)
    assert "pallas_call" not in str(jaxpr)
