"""Codes and scales are sharded as their array is, and no data move between devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from tests.codecs.cases import CODECS, sample

LOCAL = [
    "power8",
    "dynamic8",
    "dynamic8 exact",  # its tables are on every device
    "float8",
    "dynamic4",
    "mxfp4 rotated",
    "unsigned adaptive_power8",
    "unsigned coat8",
    "unsigned flash8",
]
COLLECTIVE = re.compile("all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter")


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, AxisType.Explicit) for name in LOCAL]
    + [(name, AxisType.Auto) for name in ("power8", "dynamic8", "dynamic4", "unsigned coat8")],
)
def test_no_collective(name, kind):
    """Four devices, both axes of the array sharded: the rows and the blocks of each."""
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(kind, kind))
    x = sample(name, (8, 500))
    codec = CODECS[name].fit(x.shape, shards=2)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(x, jax.NamedSharding(mesh, jax.P("x", "y")))

        def both(x):
            encoded = codec.encode(x)
            return encoded, codec.decode(encoded, x.shape)

        compiled = jax.jit(both).lower(sharded).compile()
        assert not COLLECTIVE.search(compiled.as_text())
        encoded, y = compiled(sharded)
        for leaf in (*jax.tree.leaves(encoded), y):
            assert leaf.sharding.spec == jax.P("x", "y")
    alone, decoded = jax.jit(both)(jnp.asarray(x))
    jax.tree.map(np.testing.assert_array_equal, encoded, alone)
    np.testing.assert_array_equal(y, decoded)


@pytest.mark.parametrize("name", ["rank1_linear4", "nvfp4"])
def test_codecs_that_are_not_local_work_all_the_same(name):
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Explicit,))
    x = sample(name)
    codec = CODECS[name].fit(x.shape, shards=4)
    both = jax.jit(lambda x: codec.decode(codec.encode(x), x.shape))
    alone = both(jnp.asarray(x))
    with jax.set_mesh(mesh):
        sharded = jax.device_put(x, jax.NamedSharding(mesh, jax.P(None, "x")))
        y = both(sharded)
    np.testing.assert_allclose(y, alone, rtol=1e-6)


def test_stochastic_rounding_of_a_sharded_array():
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Explicit,))
    codec = CODECS["power8"].fit((8, 512), shards=4)
    with jax.set_mesh(mesh):
        x = jax.device_put(sample("power8"), jax.NamedSharding(mesh, jax.P(None, "x")))
        code = jax.jit(codec.encode)(x, key=jax.random.key(0)).code
        assert code.sharding.spec == jax.P(None, "x")
