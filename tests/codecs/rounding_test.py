"""Stochastic rounding to bfloat16: one of the two neighbours, and right in the mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optlab import codecs
from optlab.codecs import stochastic_round
from optlab.codecs._rounding import _carry
from tests.codecs.cases import golden


def test_bits_of_torchao():
    """Which rounds up where its 16 random bits are below those cut off; ours carry from above."""
    data = golden("lowbit_bf16_sr")
    rounded = jax.jit(_carry)(data["x"], 0xFFFF - data["rand16"])
    np.testing.assert_array_equal(np.asarray(rounded).view(np.uint16), data["y_bf16_bits"])


@pytest.mark.parametrize("scale", [1e-38, 1e-3, 1.0, 1e30])
def test_neighbours_and_mean(scale):
    rng = np.random.default_rng(0)
    x = (scale * rng.normal(size=20)).astype(np.float32)
    keys = jax.random.split(jax.random.key(1), 4000)
    rounded = np.asarray(
        jax.vmap(lambda key: stochastic_round(x, jnp.bfloat16, key))(keys).astype(jnp.float32),
        np.float64,
    )
    nearest = x.astype(jnp.bfloat16).astype(np.float64)
    spacing = np.abs(np.nextafter(x.astype(jnp.bfloat16), jnp.bfloat16(np.inf)) - nearest)
    assert (np.abs(rounded - x) < spacing).all()
    assert ((rounded > x).any(axis=0) & (rounded < x).any(axis=0)).sum() > 15
    # The mean of 4,000 draws lies within five of its standard deviations.
    assert (np.abs(rounded.mean(axis=0) - x) < 5 * 0.5 * spacing / np.sqrt(4000)).all()


def test_what_needs_no_rounding_stays():
    x = np.float32([0.0, -0.0, 1.0, -1.5, 3.0e38, np.inf, -np.inf, np.nan])
    x[4] = np.float32(jnp.finfo(jnp.bfloat16).max)
    for seed in range(20):
        rounded = stochastic_round(x, jnp.bfloat16, jax.random.key(seed)).astype(jnp.float32)
        np.testing.assert_array_equal(rounded, x)


def test_other_dtypes():
    x = jnp.float32([1.001])
    np.testing.assert_array_equal(stochastic_round(x, "float32", jax.random.key(0)), x)
    with pytest.raises(ValueError, match="dtype must be bfloat16"):
        stochastic_round(x, jnp.float16, jax.random.key(0))


@pytest.mark.parametrize(("stochastic", "expected"), [(True, 1 - 0.5 / np.e), (False, 0.5)])
def test_a_moving_average_stands_still_without_it(stochastic, expected):
    """A decay of 0.999 from 0.5 towards one: rounded to nearest no step is long enough."""
    codec = codecs.bfloat16()

    @jax.jit
    def run(keys):
        def step(m, key):
            m = m.astype(jnp.float32)
            encoded = codec.encode(m + 1e-3 * (1.0 - m), key=key if stochastic else None)
            return encoded.code, None

        return jax.lax.scan(step, jnp.full(500, 0.5, jnp.bfloat16), keys)[0]

    end = run(jax.random.split(jax.random.key(0), 1000)).astype(jnp.float32).mean()
    assert end == pytest.approx(expected, abs=0.01)
