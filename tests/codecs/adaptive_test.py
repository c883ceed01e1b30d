"""Blocks of few decades get finer steps, blocks of many lose nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optlab import codecs
from tests.codecs.cases import golden


def through(codec, x):
    return np.asarray(jax.jit(lambda x: codec.decode(codec.encode(x)))(jnp.asarray(x)), np.float64)


def test_signed_blocks_are_steep_where_an_entry_would_vanish():
    x = np.ones((2, 4), np.float32)
    x[0, 1], x[1, 1] = 3.2e-5, -3.0e-5  # half of 1/127^2 is 3.1e-5
    codec = codecs.adaptive_power8(4)
    encoded = codec.encode(jnp.asarray(x))
    np.testing.assert_array_equal(jnp.sign(encoded.scale[:, 0]), [1, -1])
    y = through(codec, x)
    assert y[0, 1] == pytest.approx(1 / 127**2, rel=1e-6)
    assert y[1, 1] == pytest.approx(-3.0e-5, rel=0.2)


def test_unsigned_codes_lie_between_the_extremes():
    """Steps are even in the fourth root, so errors follow from the range in closed form."""
    rng = np.random.default_rng(0)
    x = rng.uniform(1.0, 2.0, (8, 256)).astype(np.float32)
    y = through(codecs.adaptive_power8(signed=False), x)
    step = (2.0**0.25 - 1.0) / 255
    assert np.abs(y / x - 1).max() <= 4 * step / 2 + 1e-6
    assert np.abs(y / x - 1).max() > 0.8 * 4 * step / 2
    np.testing.assert_array_equal(y.max(axis=1), x.max(axis=1))
    np.testing.assert_array_equal(y.min(axis=1), x.min(axis=1))
    plain = through(codecs.power8(signed=False), x)
    assert np.abs(plain / x - 1).max() > 4 * np.abs(y / x - 1).max()


def test_constant_and_zero_blocks():
    x = np.stack([np.full(8, 0.3), np.zeros(8), np.eye(8)[0]]).astype(np.float32)
    np.testing.assert_array_equal(through(codecs.adaptive_power8(8, signed=False), x), x)


@pytest.mark.parametrize("kind", ["mild", "wild"])
def test_it_beats_power8_on_moments_of_adam(kind):
    """Of 4096 parameters after 50 steps, torch's AdamW in float32; what a step is off by."""
    data = golden("lowbit_moments")
    m, v = data[f"{kind}_m"], data[f"{kind}_v"]

    def error(codec):
        step = through(codec(), m) / np.sqrt(through(codec(signed=False), v))
        exact = m / np.sqrt(v.astype(np.float64))
        return np.sqrt(np.mean((step - exact) ** 2) / np.mean(exact**2))

    assert error(codecs.adaptive_power8) < 0.98 * error(codecs.power8)
