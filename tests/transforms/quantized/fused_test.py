"""The steps in place against the plain ones, and what they need beside their arguments."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optlab
from optlab.transforms import quantized
from tests.golden import replay

# Cut in blocks; in rows, for its last block is short; not at all; and too small to be coded.
SHAPES = {"flat": (9000,), "odd": (40, 300), "kernel": (3, 4, 8, 256), "bias": (64,), "scale": ()}
CHUNK = 1 << 12
STEPS = 3


def problem(shapes=None):
    rng = np.random.default_rng(0)
    shapes = SHAPES if shapes is None else shapes

    def draw(*lead):
        return {n: rng.normal(size=(*lead, *s)).astype(np.float32) for n, s in shapes.items()}

    return jax.tree.map(jnp.asarray, draw()), draw(STEPS)


def in_place(tx, params, grads):
    """The params after each step, and the last state."""

    def step(carry, g):
        params, state = quantized.step(tx, carry[0], g, carry[1])
        return (params, state), params

    run = jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g))
    (_, state), path = run(params, jax.tree.map(jnp.asarray, grads))
    return path, state


def decays(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


@pytest.mark.parametrize(
    ("tx", "codec"),
    [
        (optax.adamw(1e-2, weight_decay=0.1, mask=decays), "power8"),
        (optax.lion(optax.linear_schedule(1e-2, 0.0, 5)), "dynamic4"),
        pytest.param(optax.sgd(1e-2, 0.9), None, marks=pytest.mark.slow),
        pytest.param(optax.adamw(1e-2), "coat8", marks=pytest.mark.slow),
        pytest.param(
            optax.rmsprop(1e-2, centered=True, momentum=0.9), "flash8", marks=pytest.mark.slow
        ),
        pytest.param(
            optax.adam(1e-2), {"mu": "dynamic8", "nu": "rank1_linear4"}, marks=pytest.mark.slow
        ),
        pytest.param(
            optax.partition(
                {"a": optax.adam(1e-2), "b": optax.sgd(1e-2, 0.9)},
                lambda p: {n: "a" if n == "odd" else "b" for n in p},
            ),
            "power8",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["adamw", "lion", "sgd", "coat", "rmsprop", "rank_one", "partition"],
)
def test_steps_are_the_plain_ones(tx, codec):
    params, grads = problem()
    tx = quantized.fused(tx, codec, chunk=CHUNK)
    path, state = in_place(tx, params, grads)
    plain = replay(optax.GradientTransformationExtraArgs(tx.init, tx.update), params, grads)
    for name, found in path.items():
        np.testing.assert_allclose(found, plain[name], rtol=0, atol=1e-6)
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))


@pytest.mark.parametrize("name", ["muon8bit", pytest.param("lamb8bit", marks=pytest.mark.slow)])
def test_leafwise_steps_are_the_plain_ones(name):
    params, grads = problem({"w": (64, 128), "v": (32, 256), "b": (5,)})
    tx = getattr(optlab, name)(1e-2)
    path, _ = in_place(tx, params, grads)
    plain = replay(optax.GradientTransformationExtraArgs(tx.init, tx.update), params, grads)
    for leaf, found in path.items():
        np.testing.assert_allclose(found, plain[leaf], rtol=0, atol=2e-6)


def test_updates_in_place_are_the_plain_ones():
    params, grads = problem()
    tx = optax.adamw(1e-2, weight_decay=0.1, mask=decays)
    tx = optax.chain(optax.clip(1.0), quantized.fused(tx, chunk=CHUNK))
    plain = replay(optax.GradientTransformationExtraArgs(tx.init, tx.update), params, grads)
    update = functools.partial(tx.update, in_place=True)
    found = replay(optax.GradientTransformationExtraArgs(tx.init, update), params, grads)
    for name, path in found.items():
        np.testing.assert_allclose(path, plain[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("as_function", [False, True], ids=["tree", "function"])
def test_no_leaf_traces_the_work_of_the_others(as_function):
    """Tracing would be quadratic in the leaves; but masks that are functions must see them."""
    seen = []

    def update(updates, state, params=None):
        del params
        seen.append(len(jax.tree.leaves(updates)))
        return jax.tree.map(lambda g: -g, updates), state

    params, _ = problem({str(i): (300, 256) for i in range(8)})

    def mask(p):
        return jax.tree.map_with_path(lambda path, _: path[0].key != "3", p)

    inner = optax.chain(
        optax.trace(0.9), optax.GradientTransformation(optax.identity().init, update)
    )
    tx = quantized.fused(optax.masked(inner, mask if as_function else mask(params)))
    state = tx.init(params)
    seen.clear()
    new, _ = jax.eval_shape(tx.step, params, params, state)
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, params)
    assert (sum(seen) > 50) == as_function


def compiled_step(tx, shapes, *, update=False):
    params = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()}
    state = jax.eval_shape(tx.init, params)
    step = jax.jit(lambda p, s, g: quantized.step(tx, p, g, s), donate_argnums=(0, 1))
    if update:  # its gradients come first, as what is donated
        step = jax.jit(lambda g, s, p: tx.update(g, s, p, in_place=True), donate_argnums=(0, 1))
    analysis = step.lower(params, state, params).compile().memory_analysis()
    size = sum(p.size for p in params.values())
    return analysis, size, quantized.state_bytes(state)


def average_of_params():
    """A state that reads parameters, which the step must then not overwrite before."""

    def update(updates, state, params):
        ema = jax.tree.map(lambda x, p: 0.9 * x + 0.1 * p, state.ema, params)
        return jax.tree.map(lambda g: -0.1 * g, updates), state._replace(ema=ema)

    return optax.GradientTransformation(optax.ema(0.9).init, update)


@pytest.mark.parametrize(
    ("tx", "codec", "leaves"),
    [
        (optax.adamw(1e-3), "power8", 1),
        (optax.adamw(1e-3), "power8", 6),
        (optax.lion(1e-3), "power8", 1),  # its update reads the old codes, as their new ones do
        (average_of_params(), {"ema": "power8"}, 1),
    ],
    ids=["adamw", "adamw_leaves", "lion", "average"],
)
def test_memory_beside_the_state_is_that_of_a_chunk(tx, codec, leaves):
    """The guard of the formulation: XLA falls back to whole buffers without a word."""
    tx = quantized.fused(tx, codec, chunk=1 << 14)
    analysis, size, state = compiled_step(tx, {str(i): (512, 1024) for i in range(leaves)})
    assert analysis.temp_size_in_bytes < 40 * (1 << 14)  # 26 bytes an entry of the chunk
    assert analysis.alias_size_in_bytes >= 4 * size + state - 1024


def test_update_in_place_needs_no_more():
    tx = quantized.fused(optax.adamw(1e-3), chunk=1 << 15)
    analysis, size, state = compiled_step(tx, {"w": (512, 1024)}, update=True)
    assert analysis.temp_size_in_bytes < 40 * (1 << 14)
    assert analysis.alias_size_in_bytes >= 4 * size + state - 1024


@pytest.mark.slow
@pytest.mark.parametrize("update", [False, True], ids=["step", "update"])
@pytest.mark.parametrize(
    ("name", "bound"),
    [("adamw8bit", 2.3), ("lion8bit", 1.2), ("adamw4bit", 1.3), ("sgd8bit", 1.2)],
)
@pytest.mark.parametrize("leaves", [1, 16, 64])
def test_bytes_a_parameter(name, bound, leaves, update):
    shapes = {str(i): (16384 // leaves, 1024) for i in range(leaves)}
    analysis, size, state = compiled_step(getattr(optlab, name)(1e-3), shapes, update=update)
    assert (state + analysis.temp_size_in_bytes) / size <= bound
    assert analysis.alias_size_in_bytes >= 4 * size + state - 8192


@pytest.mark.slow
def test_time_does_not_depend_on_the_chunk():
    """Copies of the state in every turn would make small chunks slow: 50-fold at 2^14."""
    params = {"w": jnp.ones((2048, 1024))}
    seconds = {}
    for size in (1 << 15, 1 << 18):
        tx = quantized.fused(optax.adamw(1e-3), chunk=size)
        step = jax.jit(lambda p, s, g, tx=tx: tx.step(p, g, s), donate_argnums=(0, 1))
        carry = jax.tree.map(jnp.copy, (params, tx.init(params)))
        times = []
        for _ in range(7):
            start = time.process_time()
            carry = jax.block_until_ready(step(*carry, params))
            times.append(time.process_time() - start)
        seconds[size] = np.median(times[2:])
    assert seconds[1 << 15] < 3 * seconds[1 << 18]


def test_problems_side_by_side():
    """Under vmap, as the trainer runs its lanes."""
    tx = quantized.fused(optax.adamw(1e-2), chunk=CHUNK)
    params, grads = problem({"w": (40, 256)})
    pairs = [(params, grads["w"][i]) for i in range(2)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *pairs)

    def step(params, g):
        return tx.step(params, {"w": g}, tx.init(params))[0]["w"]

    found = jax.jit(jax.vmap(step))(*stacked)
    for i, pair in enumerate(pairs):
        np.testing.assert_allclose(found[i], jax.jit(step)(*pair), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_plain_update_needs_more():
    """What the naive wrapper costs, so that the figures above mean something."""
    shapes = {str(i): (1024, 1024) for i in range(16)}
    for tx, bytes_a_parameter in ((optax.adamw(1e-3), 8), (optax.lion(1e-3), 8)):
        analysis, size, state = compiled_step(tx, shapes)
        assert abs((state + analysis.temp_size_in_bytes) / size - bytes_a_parameter) < 0.1
    tx = quantized.quantize_states(optax.adamw(1e-3))
    analysis, size, state = compiled_step(tx, shapes)
    assert (state + analysis.temp_size_in_bytes) / size > 6


@pytest.mark.parametrize(
    ("tx", "by"),
    [
        (optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)), "leaf"),
        (optax.lamb(1e-2), "entry"),
    ],
    ids=["global_norm", "lamb"],
)
def test_couplings_are_refused(tx, by):
    with pytest.raises(ValueError, match="would give other results"):
        quantized.fused(tx, by=by)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="by must be"):
        quantized.fused(optax.sgd(0.1), by="row")
    with pytest.raises(ValueError, match="chunk must be"):
        quantized.fused(optax.sgd(0.1), chunk=0)


def test_a_count_of_steps_is_no_parameters_own():
    """Neither where the only leaf has no path, nor where one has the name of a count."""
    tx = quantized.fused(optax.adam(1e-3), chunk=CHUNK)
    for params in (jnp.ones(9000), {"count": jnp.ones((40, 256)), "w": jnp.ones((16, 256))}):
        jax.eval_shape(lambda p: tx.step(p, p, tx.init(p)), params)


def test_wrong_input_is_named():
    tx, params = optlab.adamw8bit(1e-3), {"w": np.ones((16, 256), np.float32), "b": jnp.ones(4)}
    state = tx.init(params)
    tx.step(params, params, state)  # NumPy's arrays are none of it
    for error, words, arguments in [
        (ValueError, "state must be", (tx, params, params, optax.adamw(1e-3).init(params))),
        (ValueError, "tx must be", (3, params, params, state)),
        (TypeError, "grads must have the structure", (tx, params, {"w": params["w"]}, state)),
        (TypeError, "grads must have the shapes", (tx, params, params | {"b": jnp.ones(3)}, state)),
    ]:
        with pytest.raises(error, match=words):
            optlab.step(*arguments)
    with pytest.raises(ValueError, match="rounding must be a key"):
        tx.step(params, params, state, rounding=3)


def test_optax_takes_it_as_one_of_its_own():
    """Two fields, so that optax can unpack it; in a chain the step is gone, and step falls back."""
    tx = optlab.adamw8bit(1e-2)
    init, update = tx
    assert (init, update) == (tx.init, tx.update)
    chained = optax.chain(optax.clip(1.0), tx)
    assert not hasattr(chained, "step")
    params, grads = problem({"w": (64, 128)})
    first = jax.tree.map(lambda g: jnp.clip(g[0], -1.0, 1.0), grads)
    found, _ = optlab.step(chained, params, first, chained.init(params))
    want, _ = tx.step(params, first, tx.init(params))
    np.testing.assert_allclose(found["w"], want["w"], rtol=0, atol=1e-6)


def test_scalar_arguments_reach_the_transform():
    def update(updates, state, params=None, *, value, **extra):
        del params, extra
        return jax.tree.map(lambda g: -value * g, updates), state

    tx = quantized.fused(
        optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    )
    params = {"w": jnp.ones(4)}
    others = {"value_fn": lambda p: 0.0, "grad": params}
    new, _ = tx.step(params, params, tx.init(params), value=jnp.array(0.5), **others)
    assert new["w"].tolist() == [0.5] * 4


def test_bfloat16_params_keep_their_dtype():
    params, grads = problem({"w": (64, 128)})
    low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    tx = optlab.adamw8bit(1e-2)
    first = jax.tree.map(lambda g: jnp.asarray(g[0], jnp.bfloat16), grads)
    new, state = jax.jit(tx.step)(low, first, tx.init(low))
    assert new["w"].dtype == jnp.bfloat16
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, tx.init(low))
