"""States in the layout of bitsandbytes 0.50.2: flat blocks of 256, the last one short."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optlab import codecs
from tests.codecs.cases import golden

decode = jax.jit(codecs.from_bitsandbytes, static_argnames="signed")
encode = jax.jit(codecs.to_bitsandbytes, static_argnames="signed")
CASES, BOOKS = golden("lowbit_quantize"), golden("lowbit_codebooks")


@pytest.mark.parametrize("kind", ["s", "u"])
@pytest.mark.parametrize(("case", "shape"), [("ragged1000", (25, 40)), ("tiny5", (5,))])
def test_its_states_in_and_out(case, shape, kind):
    name = f"{case}/bnb_default_{kind}"
    code, absmax = CASES[f"{name}_codes"], CASES[f"{name}_absmax"]
    signed = kind == "s"
    state = decode(jnp.asarray(code).reshape(shape), absmax, signed=signed)
    book = BOOKS["dyn8_signed" if signed else "dyn8_unsigned"]
    expected = book[code] * np.repeat(absmax, 256)[: code.size]
    np.testing.assert_array_equal(np.ravel(state), expected)

    x = CASES[f"{case}/{'x' if signed else 'xu'}"].reshape(shape)
    ours, scale = encode(jnp.asarray(x), signed=signed)
    np.testing.assert_array_equal(np.ravel(ours), code)
    np.testing.assert_array_equal(scale, absmax)


def test_whole_blocks_keep_their_codes():
    """An axis that 256 divides has the same blocks here and there."""
    code = jnp.asarray(CASES["normal/bnb_default_u_codes"]).reshape(8, 512)
    absmax = CASES["normal/bnb_default_u_absmax"]
    state = decode(code, absmax, signed=False)
    codec = codecs.dynamic8(signed=False, exact=True, safe_zero=False)
    encoded = jax.jit(codec.encode)(state)
    np.testing.assert_array_equal(encoded.code, code)
    np.testing.assert_array_equal(np.ravel(encoded.scale), absmax)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="absmax must have shape"):
        codecs.from_bitsandbytes(jnp.zeros((2, 256), jnp.uint8), jnp.ones(3))
