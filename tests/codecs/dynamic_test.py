"""The dynamic map against bitsandbytes 0.50.2 and torchao 0.18.0, recorded code by code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optlab import codecs
from optlab.base import Encoded
from optlab.codecs._tree import tree_book, tree_thresholds
from tests.codecs.cases import golden, rows

BOOKS = golden("lowbit_codebooks")
CASES = golden("lowbit_quantize")
NAMES = {(True, 7): "dyn8_signed", (False, 7): "dyn8_unsigned", (True, 3): "dyn4_signed"}


@functools.partial(jax.jit, static_argnums=0)
def encode(codec, x):
    return codec.encode(x)


@functools.partial(jax.jit, static_argnums=0)
def decode(codec, encoded):
    return codec.decode(encoded)


def parity(signed, exact=True):
    return codecs.dynamic8(signed=signed, exact=exact, safe_zero=False)


@pytest.mark.parametrize(("signed", "decades"), NAMES)
def test_codebooks_bit_by_bit(signed, decades):
    name = NAMES[signed, decades]
    np.testing.assert_array_equal(tree_book(decades, signed), BOOKS[name])
    np.testing.assert_array_equal(tree_thresholds(decades, signed)[:-1], BOOKS[name + "_thr"])
    assert tree_thresholds(decades, signed)[-1] == np.inf


@pytest.mark.parametrize("signed", [True, False])
def test_every_code_decodes_to_its_value(signed):
    code = jnp.arange(256, dtype=jnp.uint8).reshape(1, 256)
    book = BOOKS["dyn8_signed" if signed else "dyn8_unsigned"]
    encoded = Encoded(code, jnp.ones((1, 1)))
    np.testing.assert_array_equal(decode(parity(signed), encoded)[0], book)
    closed = decode(parity(signed, exact=False), encoded)
    np.testing.assert_allclose(closed[0], book, rtol=6e-7)
    assert closed[0, 255] == 1.0


def near(thresholds):
    """Every threshold and every code value with the eight floats around it, as absmax = 1."""
    bits = thresholds.astype(np.float32).view(np.int32)[:, None] + np.arange(-4, 5, dtype=np.int32)
    x = bits.view(np.float32).ravel()
    x = x[np.isfinite(x) & (np.abs(x) <= 1)]
    x = np.resize(x, (-(-x.size // 255), 255))
    return np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)


@pytest.mark.parametrize("signed", [True, False])
def test_thresholds_and_values(signed):
    """Ties go to the lower code; without the tables codes are off by one at worst."""
    name = "dyn8_signed" if signed else "dyn8_unsigned"
    x = near(np.concatenate([BOOKS[name], BOOKS[name + "_thr"]]))
    expected = np.searchsorted(BOOKS[name + "_thr"], x, side="left")
    np.testing.assert_array_equal(encode(parity(signed), jnp.asarray(x)).code, expected)
    closed = np.asarray(encode(parity(signed, exact=False), jnp.asarray(x)).code).astype(int)
    assert np.abs(closed - expected).max() <= 1
    assert 0 < (closed != expected).mean() < 0.05  # nearly all entries here are at a threshold


@pytest.mark.parametrize("kind", ["s", "u"])
@pytest.mark.parametrize(
    "case", ["normal", "heavy", "zeroblock", "outlier", "ragged1000", "tiny5", "small1e-20"]
)
def test_codes_of_bitsandbytes(case, kind):
    x = CASES[f"{case}/{'x' if kind == 's' else 'xu'}"]
    encoded = encode(parity(kind == "s"), jnp.asarray(rows(x, 256)))
    codes = np.asarray(encoded.code).ravel()[: x.size]
    np.testing.assert_array_equal(codes, CASES[f"{case}/bnb_default_{kind}_codes"])
    np.testing.assert_array_equal(encoded.scale[:, 0], CASES[f"{case}/bnb_default_{kind}_absmax"])


@pytest.mark.parametrize("kind", ["s", "u"])
@pytest.mark.parametrize("case", ["normal", "heavy", "zeroblock", "outlier"])
def test_codes_of_torchao(case, kind):
    """Which divides, with ties to the upper code: neither shows outside the thresholds."""
    x = rows(CASES[f"{case}/{'x' if kind == 's' else 'xu'}"], 256)
    codes = np.asarray(encode(parity(kind == "s"), jnp.asarray(x)).code).ravel()
    np.testing.assert_array_equal(codes, CASES[f"{case}/ao_{kind}_codes"])


def test_bitsandbytes_at_thresholds():
    """It compares with midpoints that are rounded to float32, where ours are exact."""
    x = CASES["thresh_signed/x"]
    expected = np.searchsorted(BOOKS["dyn8_signed_thr"], x, side="left")
    ours = np.asarray(encode(parity(True), jnp.asarray(rows(x, 256))).code).ravel()
    np.testing.assert_array_equal(ours, expected)
    theirs = CASES["thresh_signed/bnb_default_s_codes"].astype(int)
    assert np.abs(theirs - ours).max() == 1
    assert (theirs != ours).sum() < 60  # of 1280, all at thresholds


@pytest.mark.parametrize("kind", ["s", "u"])
def test_subnormal_and_bad_blocks(kind):
    """Subnormal entries are flushed by XLA:CPU; bad blocks have no finite entry, others all."""
    x = rows(CASES[f"denormal/{'x' if kind == 's' else 'xu'}"], 256)
    codec = parity(kind == "s")
    np.testing.assert_array_equal(decode(codec, encode(codec, jnp.asarray(x))), 0 * x)
    x = rows(CASES[f"naninf/{'x' if kind == 's' else 'xu'}"], 256)
    y = np.asarray(decode(codec, encode(codec, jnp.asarray(x))))
    bad = ~np.isfinite(x).all(axis=1)
    assert bad.sum() == 3
    assert not np.isfinite(y[bad]).any()
    good = np.asarray(encode(codec, jnp.asarray(x)).code)[~bad].ravel()
    theirs = CASES[f"naninf/bnb_default_{kind}_codes"].reshape(-1, 256)[~bad].ravel()
    np.testing.assert_array_equal(good, theirs)


@pytest.mark.parametrize("kind", ["s", "u"])
@pytest.mark.parametrize("case", ["normal", "heavy", "zeroblock", "outlier"])
def test_four_bit_codes_of_torchao(case, kind):
    x = rows(CASES[f"{case}/{'x' if kind == 's' else 'xu'}"], 128)
    codec = codecs.dynamic4() if kind == "s" else codecs.linear4_nozero()
    encoded = encode(codec, jnp.asarray(x))
    np.testing.assert_array_equal(encoded.code.ravel(), CASES[f"{case}/ao_4bit_{kind}_packed"])
    book = BOOKS["dyn4_signed" if kind == "s" else "lin4_unsigned_nozero"]
    codes = np.asarray(encoded.code)
    halves = np.stack([codes >> 4, codes & 15], axis=-1).reshape(x.shape)
    expected = book[halves] * np.asarray(encoded.scale)
    np.testing.assert_allclose(decode(codec, encoded), expected, rtol=5e-7)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["signed +", "signed -", "unsigned"])
def test_every_float_from_zero_to_one(kind):
    """All 1,065,353,217 of them get the right code; a few hundred do not without the tables."""
    signed, sign = kind != "unsigned", -1.0 if kind == "signed -" else 1.0
    name = "dyn8_signed" if signed else "dyn8_unsigned"
    thresholds = jnp.asarray(np.append(BOOKS[name + "_thr"], np.float32(np.inf)))
    lower = jnp.asarray(np.append(np.float32(-np.inf), BOOKS[name + "_thr"]))
    one = 0x3F800000
    chunk = 1 << 20

    @jax.jit
    def wrong(start):
        bits = jnp.minimum(start + jnp.arange(chunk, dtype=jnp.int32), one)
        unit = sign * jax.lax.bitcast_convert_type(bits, jnp.float32)

        def count(exact):
            code = parity(signed, exact)._nearest(unit).astype(jnp.int32)
            return jnp.sum(~((unit > lower[code]) & (unit <= thresholds[code])))

        return count(True), count(False)

    counts = np.array([jax.device_get(wrong(start)) for start in range(0, one + 1, chunk)])
    # The last chunk repeats 1.0, which is right. Subnormal floats are zero to XLA:CPU.
    assert counts[:, 0].sum() == 0
    assert 0 < counts[:, 1].sum() < 300
