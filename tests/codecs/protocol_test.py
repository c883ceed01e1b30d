"""What every codec keeps: shapes, idempotence, zeros, NaN, jit, vmap, loops, mean over keys."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optlab import codecs
from optlab.base import Encoded
from tests.codecs.cases import CODECS, SIGNED, UNSIGNED, sample

every = pytest.mark.parametrize("name", CODECS)
# Its statistics are those of the decoded group, which may ask for another exponent.
IDEMPOTENT = [name for name in CODECS if "coat8" not in name]
SAFE = [name for name in UNSIGNED if CODECS[name].local]


@functools.partial(jax.jit, static_argnums=0)
def encode(codec, x):
    return codec.encode(x)


@functools.partial(jax.jit, static_argnums=(0, 2))
def decode(codec, encoded, shape):
    return codec.decode(encoded, shape)


def through(name, x):
    codec = CODECS[name].fit(x.shape)
    return decode(codec, encode(codec, x), x.shape)


@every
def test_shapes_dtypes_and_bits(name):
    x = jnp.asarray(sample(name))
    codec = CODECS[name].fit(x.shape)
    encoded = encode(codec, x)
    assert encoded.code.shape == (8, 512 * getattr(codec, "code_bits", 8) // 8)
    y = decode(codec, encoded, x.shape)
    assert y.shape == x.shape
    assert y.dtype == jnp.float32
    stored = sum(leaf.nbytes for leaf in jax.tree.leaves(encoded))
    if codec.local and name != "nvfp4":  # the scales of others depend on the array's shape
        assert 8 * stored == codec.bits * x.size


@every
def test_codes_are_plain_data(name):
    """Integers for what is not a dtype of the array, so that any checkpoint keeps them."""
    encoded = jax.eval_shape(CODECS[name].encode, jnp.ones((2, 64)))
    assert encoded.code.dtype.name in ("int8", "uint8", "bfloat16", "float32")
    for scale in jax.tree.leaves(encoded.scale):
        assert scale.dtype.name in ("float32", "bfloat16", "float16", "uint8")
        assert not scale.weak_type


@pytest.mark.parametrize("name", IDEMPOTENT)
def test_decoded_arrays_are_coded_as_they_were(name):
    x = sample(name)
    if "dynamic" in name:  # its map has no -1: where that is the largest entry, the scale falls
        x = np.maximum(
            x,
            -0.9
            * np.max(x.reshape(8, -1, 128), axis=-1, keepdims=True).repeat(128, 2).reshape(x.shape),
        )
    x = jnp.asarray(x)
    codec = CODECS[name].fit(x.shape)
    first = encode(codec, x)
    again = encode(codec, decode(codec, first, x.shape))
    np.testing.assert_array_equal(first.code, again.code)
    # nvfp4 divides the largest scale by 2688 and multiplies it back.
    ulps = {"nvfp4": 2e-7}.get(name, 0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=ulps), *(first.scale, again.scale)
    )


@every
def test_errors_are_small(name):
    """No entry is off by more than a fraction of its block's largest."""
    x = sample(name)
    y = np.asarray(through(name, jnp.asarray(x)))
    largest = np.abs(x).reshape(8, -1, 16).max(axis=-1).max()  # blocks differ from codec to codec
    share = 0.2 if CODECS[name].bits < 8 else 0.08 if "e5m2" in name else 0.035
    assert np.abs(y - x).max() <= share * largest


@every
def test_zeros_stay(name):
    x = jnp.zeros((8, 512))
    np.testing.assert_array_equal(through(name, x), x)


@pytest.mark.parametrize("name", SAFE)
def test_nothing_above_zero_becomes_zero(name):
    """Sixty decades in a block: by far more than any of the codes spans."""
    x = np.tile(np.logspace(-35, 25, 512, dtype=np.float32), (8, 1))
    y = np.asarray(through(name, jnp.asarray(x)))
    assert (y > 0).all()
    x[:, ::3] = 0.0
    if CODECS[name].bits >= 8:
        y = np.asarray(through(name, jnp.asarray(x)))
        assert (y[:, ::3] == 0).all()
        assert (y[x > 0] > 0).all()


@pytest.mark.parametrize("name", SIGNED)
def test_negation(name):
    """Codes are odd, but for dynamic maps, which have no -1."""
    x = jnp.asarray(sample(name))
    y = through(name, -x)
    largest = 0.15 if "dynamic4" in name else 0.01 if "dynamic" in name else 1e-6
    np.testing.assert_allclose(-y, through(name, x), rtol=largest, atol=1e-30)


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_entry_spoils_its_block_and_no_other(name, bad):
    x = sample(name)
    x[2, 300] = bad
    codec = CODECS[name].fit(x.shape)
    y = np.asarray(decode(codec, encode(codec, jnp.asarray(x)), x.shape))
    assert not np.isfinite(y[2, 300])
    if name in ("bfloat16", "float32"):
        np.testing.assert_array_equal(np.isfinite(y), np.isfinite(x))
    elif codec.local:
        start = 300 // codec.block * codec.block
        spoiled = np.zeros(x.shape, bool)
        spoiled[2, start : start + codec.block] = True
        np.testing.assert_array_equal(~np.isfinite(y), spoiled)


@every
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_magnitude_does_not_matter(name, scale):
    """Bitwise for powers of two; formats of narrow scales say so in their docstrings."""
    if any(word in name for word in ("coat8", "flash8", "float16", "ue5m3", "nvfp4")):
        pytest.skip("its scales have a smaller range")
    power = np.float32(2.0 ** np.round(np.log2(scale)))
    x = sample(name, spread=0.5)
    x[np.abs(x) < 1e-2] = 0.0  # else subnormal
    expected = np.asarray(through(name, jnp.asarray(x))) * power
    near = 1e-6 * np.abs(expected).max() if "rotated" in name else 0.0
    actual = through(name, jnp.asarray(x * power))
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=near)


KINDS = [  # one of each way to code
    "power8",
    "dynamic8",
    "float8",
    "dynamic4",
    "mxfp4 rotated",
    "nvfp4",
    "unsigned adaptive_power8",
    "unsigned coat8",
    "unsigned flash8",
    "rank1_linear4",
    "per_tensor dynamic8",
    "bfloat16",
]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 1000), (2, 1018), (0, 7), (7, 0), (1, 1)])
def test_any_shape(name, shape):
    x = jnp.asarray(sample(name, shape))
    codec = CODECS[name].fit(shape)
    encoded = jax.eval_shape(codec.encode, x)
    packed = getattr(codec, "code_bits", 8) == 4
    assert encoded.code.shape == (*shape[:-1], -(-shape[-1] // 2) if packed else shape[-1])
    assert jax.eval_shape(lambda e: codec.decode(e, shape), encoded).shape == shape
    if hasattr(codec, "block") and len(shape) < 3 and shape[-1] > 0 and codec.local:
        assert codec.refit(encoded, shape).fit(shape).block == codec.block


def test_ragged_blocks():
    """Six of them: five of 170 entries and one of 168, each with its own scale."""
    x = jnp.asarray(sample("power8", (2, 1018)))
    for codec in (codecs.power8(170), codecs.dynamic4(170)):
        encoded = encode(codec, x)
        np.testing.assert_array_equal(encoded.scale[:, 5], jnp.abs(x[:, 850:]).max(axis=-1))
        y = decode(codec, encoded, x.shape)
        np.testing.assert_array_equal(y[:, :170], through_block(codec, x[:, :170]))
        np.testing.assert_array_equal(y[:, 850:], through_block(codec, x[:, 850:]))


def through_block(codec, x):
    return decode(codec, encode(codec, x), x.shape)


@pytest.mark.parametrize("name", ["power8", "dynamic4", "mxfp4 rotated", "unsigned coat8"])
def test_a_loop_over_chunks_is_the_whole(name):
    """Inside jit, with traced indices, and under vmap: nothing depends on other rows."""
    x = jnp.asarray(sample(name))
    codec = CODECS[name].fit(x.shape)

    @jax.jit
    def both(x):
        whole = codec.encode(x)

        def body(i, buffers):
            rows = jax.lax.dynamic_slice_in_dim(x, 2 * i, 2)
            return jax.tree.map(
                lambda b, new: jax.lax.dynamic_update_slice_in_dim(b, new, 2 * i, 0),
                buffers,
                codec.encode(rows),
            )

        looped = jax.lax.fori_loop(0, 4, body, jax.tree.map(jnp.zeros_like, whole))
        return whole, looped, jax.vmap(codec.encode)(x), jax.vmap(codec.decode)(whole)

    whole, looped, mapped, decoded = both(x)
    jax.tree.map(np.testing.assert_array_equal, whole, looped)
    jax.tree.map(np.testing.assert_array_equal, whole, mapped)
    np.testing.assert_array_equal(decoded, decode(codec, whole, x.shape))


@pytest.mark.parametrize("name", ["power8", "unsigned flash8", "mxfp4"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_other_floats_are_coded_as_float32(name, dtype):
    x = jnp.asarray(sample(name, (2, 64))).astype(dtype)
    a, b = encode(CODECS[name], x), encode(CODECS[name], x.astype(jnp.float32))
    jax.tree.map(np.testing.assert_array_equal, a, b)


STOCHASTIC = ["power8", "dynamic8", "float8", "mxfp4", "unsigned power8", "linear4_nozero"]


@pytest.mark.parametrize("name", STOCHASTIC)
def test_the_mean_over_keys_is_the_array(name):
    codec = CODECS[name]
    x = np.random.default_rng(0).uniform(0.1, 0.95, (4, 32)).astype(np.float32)
    x[:, 0] = 1.0
    x = jnp.asarray(x if name in UNSIGNED else x * np.where(np.arange(32) % 2, -1, 1))

    @jax.jit
    def draws(keys):
        return jax.vmap(lambda key: codec.decode(codec.encode(x, key=key), x.shape))(keys)

    y = np.asarray(draws(jax.random.split(jax.random.key(0), 1000)), np.float64)
    low, high = y.min(axis=0), y.max(axis=0)
    assert ((low <= x) & (x <= high)).mean() > 0.9  # the rest is beyond the last value
    clipped = (low == high) | (low > x)  # that, or coded exactly
    error = np.abs(y.mean(axis=0) - x)
    assert (error[~clipped] <= 5 * 0.5 * (high - low)[~clipped] / np.sqrt(1000) + 1e-6).all()
    assert (~clipped).mean() > 0.7


@every
def test_a_codec_is_a_static_plain_value(name):
    codec = CODECS[name]
    data = json.loads(json.dumps(codecs.spec(codec)))
    assert codecs.from_spec(data) == codec
    assert hash(codecs.from_spec(data)) == hash(codec)
    assert codec.fit((4, 512)).fit((4, 512)) == codec.fit((4, 512))


@every
def test_what_cannot_be_coded_is_refused(name):
    with pytest.raises(ValueError, match="floats"):
        CODECS[name].encode(jnp.ones((2, 4), jnp.int32))
    with pytest.raises(ValueError, match="floats"):
        CODECS[name].encode(jnp.ones((2, 4), jnp.complex64))
    with pytest.raises(ValueError, match="at least one axis"):
        CODECS[name].encode(jnp.float32(1))


def test_gradients_are_not_nan():
    """Codes have no derivative; what is left is that of the scale."""
    codec = codecs.power8(4)
    grad = jax.jit(jax.grad(lambda x: codec.decode(codec.encode(x)).sum()))(jnp.eye(2, 8))
    np.testing.assert_array_equal(grad, np.eye(2, 8))


def test_encoded_is_a_pytree():
    encoded = codecs.power8().encode(jnp.ones((2, 4)))
    assert isinstance(jax.tree.map(lambda x: x, encoded), Encoded)
