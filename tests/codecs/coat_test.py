"""COAT's expansion against two transcriptions of its kernel, in torch and in NumPy.

The kernel is fp8_adamw_expand_cuda_kernel.cu of NVlabs/COAT at 80ec99f, which needs a GPU; powers
differ by units in the last place from library to library, so a code may be off by one.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optlab import codecs
from tests.codecs.cases import golden, rows

CASES, PORT = golden("lowbit_quantize"), golden("lowbit_coat_port")


@functools.partial(jax.jit, static_argnums=0)
def both(codec, x):
    encoded = codec.encode(x)
    return encoded, codec.decode(encoded)


@pytest.mark.parametrize("kind", ["s", "u"])
@pytest.mark.parametrize("case", ["normal", "heavy", "zeroblock", "outlier"])
def test_as_released(case, kind):
    x = rows(CASES[f"{case}/{'x' if kind == 's' else 'xu'}"], 128)
    codec = codecs.coat8(signed=kind == "s", zero_safe=False)
    (code, (scale, k, middle)), y = both(codec, jnp.asarray(x))
    theirs = {key: PORT[f"{case}/{kind}_{key}"] for key in ("codes", "scale", "k", "sqrtminmax")}
    constant = np.isinf(theirs["k"][:, 0])  # where we take 64
    np.testing.assert_array_equal(k[~constant], theirs["k"][~constant])
    assert (np.asarray(k)[constant] == 64).all()
    np.testing.assert_allclose(scale[~constant], theirs["scale"][~constant], rtol=1e-4)
    np.testing.assert_allclose(middle, theirs["sqrtminmax"], rtol=1e-6)
    off = np.abs(np.asarray(code).astype(int) - theirs["codes"])[~constant]
    assert off.max() <= 1
    assert (off > 0).mean() < 0.01
    same = (off == 0) & (x[~constant] != 0)
    deq = PORT[f"{case}/{kind}_deq"][~constant]
    np.testing.assert_allclose(np.asarray(y)[~constant][same], deq[same], rtol=2e-3)
    np.testing.assert_allclose(np.asarray(y)[constant], x[constant], atol=1e-29)


def test_one_group_of_another_transcription():
    data = golden("opt_coat_quant")
    for x, signed, kind in ((data["x"], True, "m"), (data["x"] ** 2, False, "v")):
        (_, (_, k, middle)), y = both(
            codecs.coat8(signed=signed, zero_safe=False), jnp.asarray(x)[None]
        )
        assert k[0, 0] == data[f"{kind}_k"]
        assert middle[0, 0] == pytest.approx(data[f"{kind}_gm"], rel=1e-5)
        np.testing.assert_allclose(y[0], data[f"{kind}_deq"], rtol=2e-3)


def test_one_zero_costs_the_released_code_its_precision():
    x = np.exp(np.random.default_rng(0).normal(size=(32, 128))).astype(np.float32)
    x[:, 7] = 0.0

    def error(codec):
        y = np.asarray(both(codec, jnp.asarray(x))[1])
        assert (y[:, 7] == 0).all()
        return np.median(np.abs(y / np.where(x > 0, x, np.inf) - 1)[:, 8:])

    assert error(codecs.coat8()) < 0.02
    assert error(codecs.coat8(zero_safe=False)) > 0.1
