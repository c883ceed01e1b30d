"""Power companding against the definition of nearest, entry by entry in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optlab import codecs


@functools.partial(jax.jit, static_argnums=0)
def encode(codec, x):
    return codec.encode(x)


def grid(top, p):
    """Quotients over twenty decades, and both neighbours of each threshold and value."""
    k = np.arange(top + 1.0)
    values = (k / top) ** p
    edges = [values, (values[:-1] + values[1:]) / 2, np.sqrt(values[:-1] * values[1:])]
    around = np.concatenate([e * f for e in edges for f in (1 - 1e-5, 1.0, 1 + 1e-5)])
    x = np.concatenate([around, np.logspace(-20, 0, 2000), [0.0]]).astype(np.float32)
    x = x[x <= 1]
    x = np.resize(x, (-(-x.size // 255), 255))
    return np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)


@pytest.mark.parametrize("p", [1, 2, 4, 8])
def test_signed_codes_have_the_nearest_value(p):
    x = grid(127, p)
    x[:, ::2] *= -1
    code = np.asarray(encode(codecs.power8(p=p), jnp.asarray(x)).code, np.float64)
    values = (np.arange(128) / 127) ** p
    error = np.abs(np.abs(x.astype(np.float64)) - values[np.abs(code).astype(int)])
    best = np.abs(np.abs(x.astype(np.float64))[..., None] - values).min(axis=-1)
    assert (error <= best + 3e-7 * np.abs(x)).all()
    assert (np.sign(code) * np.sign(x) >= 0).all()


@pytest.mark.parametrize("p", [1, 2, 4, 8])
def test_unsigned_codes_are_nearest_in_ratio(p):
    """Of the values on both sides of x, the one whose ratio to x is nearer to one."""
    x = grid(255, p)
    code = np.asarray(encode(codecs.power8(p=p, signed=False), jnp.asarray(x)).code).astype(int)
    positive = x > 0
    values = (np.arange(1, 256) / 255) ** p
    log = np.log(np.where(positive, x, 1.0).astype(np.float64))
    error = np.abs(log - np.log(values)[np.maximum(code, 1) - 1])
    best = np.abs(log[..., None] - np.log(values)).min(axis=-1)
    assert (error <= best + 4e-7 * p)[positive].all()
    assert (code[positive] >= 1).all()
    assert (code[~positive] == 0).all()


def test_without_the_guard_small_entries_vanish():
    """So that the tests of the guard can fail: linear steps lose what is below half a step."""
    x = jnp.asarray([[1.0, 1e-9, 0.0]])
    assert encode(codecs.linear8(signed=False), x).code.tolist() == [[255, 1, 0]]
    assert encode(codecs.linear8(signed=False, safe_zero=False), x).code.tolist() == [[255, 0, 0]]


@pytest.mark.parametrize(
    "codec",
    [
        codecs.power8(signed=False),
        codecs.adaptive_power8(signed=False),
        codecs.dynamic8(signed=False),
        codecs.linear4_nozero(),
    ],
)
def test_negative_entries_of_unsigned_arrays_count_as_zero(codec):
    x = jnp.asarray([[1.0, -3.0, 0.5, 0.0]])
    np.testing.assert_array_equal(*(encode(codec, y).code for y in (x, jnp.maximum(x, 0))))
    assert not codec.decode(encode(codec, -jnp.abs(x))).any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_scales_are_rounded_down(dtype):
    x = jnp.asarray(np.random.default_rng(0).uniform(1e-6, 7e4, (64, 32)).astype(np.float32))
    scale = encode(codecs.power8(32, scale_dtype=dtype), x).scale
    assert scale.dtype == dtype
    largest = x.max(axis=-1, keepdims=True)
    wide = scale.astype(jnp.float32)
    assert (wide <= largest).all()
    top = float(jnp.finfo(dtype).max)
    nearest = jnp.minimum(largest, top).astype(dtype).astype(jnp.float32)
    below = jnp.nextafter(nearest.astype(dtype), jnp.zeros((), dtype)).astype(jnp.float32)
    assert ((wide == nearest) | (wide == below)).all()


def test_short_scales_are_never_zero_or_infinite():
    x = jnp.asarray([[1e-20] * 4, [1e20] * 4])
    scale = encode(codecs.power8(4, scale_dtype="float16"), x).scale
    np.testing.assert_array_equal(scale.astype(jnp.float32), [[2.0**-24], [65504.0]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 0}, "block must be an integer of at least 1"),
        ({"block": 2.5}, "block must be an integer"),
        ({"p": 3}, "p must be one of"),
        ({"scale_dtype": "int8"}, "scale_dtype must be one of"),
        ({"scale_dtype": jnp.float64}, "scale_dtype must be one of"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        codecs.power8(**options)
