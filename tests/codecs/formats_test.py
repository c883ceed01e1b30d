"""Small floats against tables: every byte, and the nearest of all values with ties to even."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from optlab import codecs
from optlab.base import Encoded
from optlab.codecs._scales import SCALES
from tests.codecs.cases import golden, rows

CASES = golden("lowbit_quantize")


@functools.partial(jax.jit, static_argnums=0)
def encode(codec, x):
    return codec.encode(x)


@functools.partial(jax.jit, static_argnums=0)
def decode(codec, encoded):
    return codec.decode(encoded)


@pytest.mark.parametrize("kind", ["s", "u"])
@pytest.mark.parametrize("case", ["normal", "heavy", "zeroblock", "outlier"])
def test_float8_codes_of_torchao(case, kind):
    x = rows(CASES[f"{case}/{'x' if kind == 's' else 'xu'}"], 256)
    codec = codecs.float8(signed=kind == "s", safe_zero=False)
    encoded = encode(codec, jnp.asarray(x))
    np.testing.assert_array_equal(encoded.code.ravel(), CASES[f"{case}/ao_fp8_{kind}_codes"])
    theirs = CASES[f"{case}/ao_fp8_{kind}_scale"]
    np.testing.assert_allclose(
        encoded.scale[:, 0] / 448, np.maximum(theirs, 0), rtol=2e-7, atol=3e-15
    )


@pytest.mark.parametrize(("format", "top"), [("e4m3", 448.0), ("e5m2", 57344.0)])
def test_float8_values(format, top):
    table = golden("lowbit_codebooks")[f"{format}_values"]
    finite = np.isfinite(table)
    code = jnp.arange(256, dtype=jnp.uint8)[None]
    values = decode(codecs.float8(format), Encoded(code, jnp.full((1, 1), top, jnp.float32)))[0]
    np.testing.assert_allclose(values[finite], table[finite], rtol=2e-7)
    # Encoded again, each value has its own code; halfway it goes to the even one.
    x = np.sort(table[finite & (table >= 0)])
    halves = np.concatenate([x, (x[:-1] + x[1:]) / 2])
    x = np.concatenate([np.resize(halves, 255), [top]]).astype(np.float32)
    dtype = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}[format]
    expected = x.astype(dtype).view(np.uint8)
    codes = np.asarray(encode(codecs.float8(format), jnp.asarray(x / top)[None]).code)[0]
    exact = (x / np.float32(top)) * np.float32(top) == x  # ties that the division keeps
    np.testing.assert_array_equal(codes[exact], expected[exact])
    assert exact.mean() > 0.5


UE5M3 = np.concatenate(
    [np.arange(8) * 2.0**-17] + [(8 + np.arange(8)) * 2.0 ** (e - 15 - 3) for e in range(1, 32)]
)[:255].astype(np.float32)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("ue5m3", UE5M3),
        ("e4m3", golden("lowbit_codebooks")["e4m3_values"][:127]),
        ("e8m0", np.float32(2.0) ** np.arange(-126, 128, dtype=np.float32)),
    ],
)
def test_scale_formats(name, table):
    """Every value is kept; between two the nearest is taken, ties to even, or the lower power."""
    scale = SCALES[name]
    store, load = jax.jit(scale.from_float32), jax.jit(scale.to_float32)
    np.testing.assert_array_equal(load(store(jnp.asarray(table))), table)
    low, high = table[1:-1].astype(np.float64), table[2:].astype(np.float64)
    for share in (0.3, 0.5, 0.7):
        x = (low + share * (high - low)).astype(np.float32)
        got = np.asarray(load(store(jnp.asarray(x))))
        even = np.arange(1, len(table) - 1) % 2 == 0
        up = (share > 0.5) | ((share == 0.5) & ~even)
        expected = low if name == "e8m0" else np.where(up, high, low)
        np.testing.assert_array_equal(got, expected.astype(np.float32))
    assert load(store(jnp.float32(1e-30))) > 0 or name == "e8m0"
    ends = load(store(jnp.asarray([0.0, 3e38, np.inf, np.nan])))
    assert ends[0] == 0
    assert ends[1] == table[-1]
    assert np.isnan(ends[2:]).all()


def test_e2m1_is_nearest_with_ties_to_even():
    x = np.linspace(-6, 6, 12 * 64 + 1, dtype=np.float32)
    x = np.resize(x, (25, 32))
    x[:, 0] = 4.0  # so that the scale is one
    encoded = encode(codecs.mxfp4(), jnp.asarray(x))
    expected = x.astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.testing.assert_array_equal(decode(codecs.mxfp4(), encoded), expected)
    np.testing.assert_array_equal(encoded.scale, np.full((25, 1), 127))
    bits = x.astype(ml_dtypes.float4_e2m1fn).view(np.uint8) & 15
    bits = np.where(bits == 8, 0, bits)  # we have no negative zero
    np.testing.assert_array_equal(encoded.code, bits[:, ::2] << 4 | bits[:, 1::2])


def test_mxfp4_scale_is_that_of_the_standard():
    """The power of two of the largest entry, less the two that e2m1 reaches itself."""
    largest = np.float32([3.99, 4.0, 7.99, 8.0, 1e-30, 1e30])
    encoded = encode(codecs.mxfp4(), jnp.asarray(np.tile(largest[:, None], (1, 32))))
    expected = np.floor(np.log2(largest.astype(np.float64))) - 2 + 127
    np.testing.assert_array_equal(encoded.scale[:, 0], expected)


@pytest.mark.parametrize("scale_dtype", ["e4m3", "ue5m3"])
def test_nvfp4_error_is_that_of_its_values(scale_dtype):
    x = np.random.default_rng(0).normal(size=(16, 256)).astype(np.float32) * 1e-12
    codec = codecs.nvfp4(scale_dtype=scale_dtype)
    y = np.asarray(decode(codec, encode(codec, jnp.asarray(x))))
    largest = np.abs(x).reshape(16, 16, 16).max(axis=-1, keepdims=True)
    # Half of the widest step (from 4 to 6), and a scale's own rounding, 1 in 16.
    assert (np.abs((y - x).reshape(16, 16, 16)) <= largest / 6 * 1.07).all()
    plain = codecs.microscaling(16, scale_dtype=scale_dtype)
    assert not np.asarray(decode(plain, encode(plain, jnp.asarray(x)))).any()  # out of its reach


def test_rotation_spreads_an_outlier():
    """Ten standard deviations: half the error. Without an outlier the rotation is of no use."""
    x = np.random.default_rng(0).normal(size=(256, 32)).astype(np.float32)
    outlier = np.where(np.arange(32) == 5, np.float32(10), x)

    def error(codec, x):
        y = np.asarray(decode(codec, encode(codec, jnp.asarray(x))))
        return np.sqrt(np.mean((y - x) ** 2))

    plain, rotated = codecs.mxfp4(), codecs.mxfp4(rotation=1)
    assert error(rotated, outlier) < 0.6 * error(plain, outlier)
    assert error(rotated, x) == pytest.approx(error(plain, x), rel=0.05)


def test_rotation_needs_whole_blocks():
    rotated = codecs.mxfp4(rotation=1)
    with pytest.raises(ValueError, match="divides to be rotated"):
        rotated.encode(jnp.ones((2, 40)))
    assert rotated.fit((2, 40)).block == 8
    assert rotated.fit((2, 96), shards=3).block == 32


def test_flash8_is_its_formula():
    x = np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32)
    x[:, 0] = 4.0  # a scale that float16 holds
    unit = x.astype(np.float64) / 4
    signed = encode(codecs.flash8(), jnp.asarray(x))
    np.testing.assert_array_equal(signed.code, np.floor(127 * 2 * unit / (1 + np.abs(unit)) + 0.5))
    unsigned = encode(codecs.flash8(signed=False), jnp.asarray(x**2))
    np.testing.assert_array_equal(unsigned.code, np.maximum(np.floor(255 * np.abs(unit) + 0.5), 1))
    assert signed.scale.dtype == jnp.float16


def test_rank_one_scales():
    """An entry's scale is the smaller of its row's and its column's largest."""
    x = np.abs(np.random.default_rng(0).normal(size=(6, 10))).astype(np.float32)
    codec = codecs.rank1_linear4()
    encoded = encode(codec, jnp.asarray(x))
    row, column = x.max(axis=1, keepdims=True), x.max(axis=0, keepdims=True)
    np.testing.assert_array_equal(encoded.scale[0], row)
    np.testing.assert_array_equal(encoded.scale[1], column)
    bound = np.minimum(row, column)
    y = np.asarray(decode(codec, encoded))
    assert (np.abs(y - x) <= bound / 32 + bound / 32 * (x < bound / 16) + 1e-6).all()


def test_bad_formats_are_refused():
    with pytest.raises(ValueError, match="format must be one of"):
        codecs.float8("e3m4")
    with pytest.raises(ValueError, match="power of two"):
        codecs.microscaling(24, rotation=0)
