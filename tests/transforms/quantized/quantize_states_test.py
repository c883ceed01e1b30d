"""What is coded and what is not, how it is told, and what wrong arguments are told."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab import codecs
from optlab.base import Encoded
from optlab.transforms import quantized
from optlab.transforms.quantized import check_codecs, quantize_states, requantize

W = {"w": jnp.ones((16, 256))}
PARAMS = {**W, "embed": jnp.ones((32, 256)), "b": jnp.ones(64), "s": jnp.ones(())}


def coded(state):
    """The names of the codecs of the coded leaves, by path."""
    lines = quantized.explain(state).splitlines()[2:-2]
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in lines]
    known = set(codecs.__all__)
    return {c[0].removeprefix("inner/"): c[2] for c in cells if c[2] in known - {"float32"}}


@pytest.mark.parametrize(
    ("tx", "fields"),
    [
        (optax.scale_by_adam(), {"mu": jnp.int8, "nu": jnp.uint8}),
        (optax.scale_by_amsgrad(), {"mu": jnp.int8, "nu": jnp.uint8, "nu_max": jnp.uint8}),
        (optax.trace(0.9), {"trace": jnp.int8}),
        (optax.ema(0.9), {"ema": jnp.int8}),
        (optax.scale_by_rss(), {"sum_of_squares": jnp.uint8}),
        (optax.contrib.scale_by_ademamix(), {"m1": jnp.int8, "m2": jnp.int8, "nu": jnp.uint8}),
        # Adan's v averages differences, which have signs; its n, the squares, has an unknown name.
        (optax.scale_by_adan(), {"m": jnp.int8, "v": None, "n": None}),
        (optax.scale_by_adadelta(), {"e_g": None, "e_x": None}),
        (optax.scale_by_sm3(), {"nu": None}),  # a first moment, with signs
        (optax.scale_by_stddev(), {"mu": None, "nu": None}),  # the root of nu - mu^2 divides
    ],
    ids=["adam", "amsgrad", "trace", "ema", "rss", "ademamix", "adan", "adadelta", "sm3", "stddev"],
)
def test_moments_are_told_by_name(tx, fields):
    state = quantize_states(tx).init(W).inner
    for field, dtype in fields.items():
        leaf = getattr(state, field)["w"]
        if dtype is None:
            assert leaf.dtype == jnp.float32
        else:
            assert leaf.code.dtype == dtype


def test_rules_choose():
    adam = optax.scale_by_adam()
    assert coded(quantize_states(adam).init(PARAMS)).keys() == {
        f"{m}/{n}" for m in ("mu", "nu") for n in ("w", "embed")
    }
    only = quantize_states(adam, {"mu": "dynamic8"})
    assert coded(only.init(PARAMS)) == {"mu/w": "dynamic8", "mu/embed": "dynamic8"}
    rules = [("nu/.*embed", None), ("^nu", "float8(signed=False)"), ("w$", "flash8")]
    assert coded(quantize_states(adam, rules).init(PARAMS)) == {"nu/w": "float8", "mu/w": "flash8"}
    for where in (quantized.all_but_embeddings, "^(?!.*embed)"):
        spared = quantize_states(adam, where=where)
        assert coded(spared.init(PARAMS)).keys() == {"mu/w", "nu/w"}
    with pytest.raises(ValueError, match=r"where must be a regular expression, got '\('"):
        quantize_states(adam, where="(").init(PARAMS)
    assert not coded(quantize_states(adam, None).init(PARAMS))
    assert len(coded(quantize_states(adam, min_size=1).init(PARAMS))) == 6  # all but the scalar


@pytest.mark.parametrize(
    ("codec", "unsigned"),
    [
        ("power8", codecs.power8(signed=False)),
        (codecs.power8(128), codecs.power8(128, signed=False)),
        (codecs.linear8(), codecs.linear8(signed=False)),
        ("dynamic4", codecs.linear4_nozero()),
        ("bfloat16", codecs.bfloat16()),
    ],
    ids=str,
)
def test_one_codec_serves_both_moments(codec, unsigned):
    state = quantize_states(optax.scale_by_adam(), codec).init(W).inner
    want = unsigned.fit((16, 256)).encode(jnp.zeros((16, 256)))
    assert jax.tree.map(jnp.shape, state.nu["w"]) == jax.tree.map(jnp.shape, want)
    assert state.nu["w"].code.dtype == want.code.dtype


@pytest.mark.parametrize("rule", [{"nu": "power8"}, [("nu", "power8")]], ids=["field", "path"])
def test_what_a_text_leaves_open_is_as_the_moment_asks(rule):
    """A second moment in a codec with signs loses what is small, and steps explode."""
    state = quantize_states(optax.scale_by_adam(), rule).init(W).inner
    assert state.nu["w"].code.dtype == jnp.uint8
    for told in ("power8(signed=True)", codecs.power8()):
        state = quantize_states(optax.scale_by_adam(), {"nu": told}).init(W).inner
        assert state.nu["w"].code.dtype == jnp.int8


@pytest.mark.parametrize(
    ("arguments", "params", "sentence"),
    [
        ({"codec": {"moo": "power8"}}, W, "codec names the field 'moo'"),
        ({"codec": [("moo", "power8")]}, W, "codec has a rule for 'moo'"),
        ({"codec": [("(", "power8")]}, W, "codec must be a list"),
        ({"codec": "power9"}, W, "codec must be"),
        ({"codec": 8}, W, "codec must be a codec"),
        ({"codec": ["power8"]}, W, "codec must be a list"),
        ({"codec": {"mu": 8}}, W, "codec must be a codec"),
        ({"codec": "linear4_nozero"}, W, "knows no signs"),
        ({"where": 3}, W, "where must be a function or a regular expression"),
        ({"shards": 0}, W, "shards must be an integer of at least 1"),
        ({}, {"w": jnp.ones(3, jnp.int32)}, "params must be real floats"),
        ({}, {"w": jnp.ones(3, jnp.complex64)}, "params must be real floats"),
    ],
)
def test_bad_input_is_named(arguments, params, sentence):
    with pytest.raises(ValueError, match=sentence):
        quantize_states(optax.adam(1e-3), **arguments).init(params)


def test_traced_sizes_are_named():
    tx = optax.inject_hyperparams(quantized.adamw8bit)(1e-3, min_size=1)
    with pytest.raises(ValueError, match="min_size must be a Python integer"):
        jax.jit(tx.init)(W)
    static = optax.inject_hyperparams(quantized.adamw8bit, static_args="min_size")
    jax.eval_shape(static(1e-3, min_size=1).init, W)


def test_wrong_states_are_named():
    """By what is known: traced records tell no more than the dtypes of codes."""
    ours, coarse, floats = (
        quantize_states(optax.trace(0.9), codec) for codec in ("dynamic8", "power8", "float8")
    )
    for state, sentence in (
        (optax.trace(0.9).init(W), "state must be as init .* gave it, got a TraceState"),
        (coarse.init(W), "state has trace/w in another codec than dynamic8"),
        (floats.init(W), "state has trace/w in float8, not in dynamic8"),
    ):
        with pytest.raises(ValueError, match=sentence):
            ours.update(W, state)
    with pytest.raises(ValueError, match="another codec than dynamic8"):
        jax.eval_shape(ours.update, W, coarse.init(W))
    with pytest.raises(ValueError, match="state must have as many quantized states"):
        check_codecs(optax.trace(0.9).init(W), ours.init(W))
    with pytest.raises(ValueError, match="state must have a QuantizedState"):
        requantize(optax.trace(0.9).init(W), "power8")
    with pytest.raises(ValueError, match="exact must have an array of shape"):
        quantized.quantization_error(ours.init(W), W)
    with pytest.raises(ValueError, match=r"tx must be an optax\.Grad"):
        quantize_states(optax.trace)


def test_another_codec_is_named_and_converted():
    x = jnp.linspace(-1.0, 1.0, 4096)
    old, new = (quantize_states(optax.trace(0.5), c) for c in ("power8", "dynamic8(block=128)"))
    _, state = old.update(x, old.init(x))
    with pytest.raises(ValueError, match=r"trace in power8, not in dynamic8\(block=128\)"):
        check_codecs(state, new.init(x))
    moved = requantize(state, "dynamic8(block=128)")
    check_codecs(moved, new.init(x))
    assert jax.tree.map(jnp.shape, moved) == jax.tree.map(jnp.shape, new.init(x))
    errors = {
        name: quantized.quantization_error(s, optax.TraceState(x))["trace"]
        for name, s in {"old": state, "new": moved}.items()
    }
    assert 1e-3 < errors["old"] < errors["new"] < 0.03
    whole = requantize(state, None)
    assert whole.inner.trace.dtype == jnp.float32
    back = requantize(whole, "power8")
    np.testing.assert_array_equal(back.inner.trace.code, state.inner.trace.code)


def test_stochastic_rounding_is_right_in_the_mean():
    """A moment that a step moves by less than half a code: rounded to the nearest, it stands."""
    x = jnp.full((1, 4096), 0.5).at[0, ::256].set(1.0)
    nearest, random = (quantize_states(optax.ema(0.999, debias=False), seed=s) for s in (None, 0))

    def run(tx):
        start = tx.init(x)
        coded = codecs.power8().encode(x)
        state = start._replace(inner=start.inner._replace(ema=coded))
        g = jnp.zeros_like(x).at[0, ::256].set(1.0)  # the scales stay
        steps = jax.lax.fori_loop(0, 200, lambda _, s: tx.update(g, s)[1], state)
        return codecs.power8().decode(steps.inner.ema)[0, 1:256].mean(), steps.key

    stuck, none = run(nearest)
    moved, key = run(random)
    assert none == ()
    assert key.dtype == jnp.uint32
    first = codecs.power8().decode(codecs.power8().encode(x))[0, 1]
    assert abs(stuck / first - 1.0) < 1e-5
    assert abs(moved / first - 0.999**200) < 0.02


def test_straight_through_is_the_coded_run_and_differentiable():
    tx = quantize_states(optax.sgd(0.1, 0.9), min_size=1)
    through = quantize_states(optax.sgd(0.1, 0.9), min_size=1, straight_through=True)
    target = jnp.linspace(-1.0, 1.0, 32)

    def run(tx, rate):
        def step(carry, _):
            x, state = carry
            updates, state = tx.update(rate * (x - target), state, x)
            return (x + updates, state), None

        x = jnp.zeros(32)
        return jax.lax.scan(step, (x, tx.init(x)), length=5)[0][0]

    np.testing.assert_allclose(run(through, 1.0), run(tx, 1.0), rtol=0, atol=1e-6)

    def loss(tx, rate):
        return jnp.sum((run(tx, rate) - target) ** 2)

    exact = jax.grad(lambda r: loss(optax.sgd(0.1, 0.9), r))(1.0)
    assert abs(jax.grad(lambda r: loss(through, r))(1.0) / exact - 1.0) < 0.02


def test_state_says_its_bytes():
    tx = quantize_states(optax.scale_by_adam())
    state = jax.eval_shape(tx.init, {"w": jax.ShapeDtypeStruct((1024, 1024), jnp.float32)})
    assert abs(quantized.state_bytes(state) / 2**20 - 2.03125) < 1e-3
    assert isinstance(state.inner.mu["w"], Encoded)
