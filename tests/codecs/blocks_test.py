"""Blocks: how an axis is cut, and that the number of scales tells it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optlab import codecs
from optlab.codecs._blocks import choose_block, join, largest, split


@pytest.mark.parametrize(
    ("n", "shards", "block"),
    [
        (1024, 1, 256),
        (1000, 1, 250),
        (768, 1, 256),
        (640, 1, 160),
        (100, 1, 100),
        (1, 1, 1),
        (0, 1, 1),
        (50257, 1, 256),  # 29 * 1733: a shorter last block
        (1018, 1, 255),  # 2 * 509: four nearly even ones
        (4000, 4, 250),
        (1024, 8, 128),
        (2**20 * 4, 4, 256),
        (4036, 4, 1009),  # a prime share is one block: none may straddle two shards
    ],
)
def test_the_block_that_is_chosen(n, shards, block):
    assert choose_block((3, n), 256, shards) == block
    if shards > 1:
        assert (n // shards) % block == 0


@pytest.mark.parametrize("wish", [1, 7, 32, 256])
def test_any_cut_can_be_recovered(wish):
    for n in (1, 2, 31, 33, 100, 255, 257, 509, 600):
        x = jax.ShapeDtypeStruct((1, n), jnp.float32)
        encoded = jax.eval_shape(codecs.power8(wish).encode, x)
        assert encoded.scale.shape[-1] == math.ceil(n / wish)
        again = codecs.power8(10**6).refit(encoded)
        assert again.block <= wish
        assert jax.eval_shape(again.encode, x) == encoded


def test_shards_must_divide_the_axis():
    with pytest.raises(ValueError, match="multiple of 4"):
        codecs.power8().fit((3, 1001), shards=4)
    with pytest.raises(ValueError, match="multiple of 4"):
        codecs.dynamic4().fit((3, 1018), shards=2)  # 509 each: a byte would lie on two
    assert codecs.dynamic4().fit((3, 1018)).block == 128


@pytest.mark.parametrize("shape", [(6,), (2, 6), (2, 3, 7), (0, 4), (4, 0)])
@pytest.mark.parametrize("block", [1, 2, 4, 100])
def test_join_undoes_split(shape, block):
    x = jnp.arange(math.prod(shape), dtype=jnp.float32).reshape(shape)
    np.testing.assert_array_equal(join(split(x, block), shape), x)


def test_the_end_is_filled_with_copies():
    assert split(jnp.array([5.0, 1.0, 2.0, 3.0, 4.0]), 3).tolist() == [[5, 1, 2], [3, 4, 4]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 5, 127])
def test_no_bad_entry_goes_unseen(bad, place):
    """XLA:CPU's own maximum lets a NaN pass over three axes, and gives -inf if it comes last."""
    x = np.ones((8, 4, 128), np.float32)
    x[3, 2, place] = bad
    seen = np.asarray(jax.jit(largest)(x))
    assert np.isinf(seen).sum() == 1
    assert seen[3, 2] == np.inf
