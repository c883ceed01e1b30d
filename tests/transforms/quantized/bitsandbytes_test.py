"""Runs of bitsandbytes 0.50.2, taken over after ten steps: see ``trajectories_test`` for the file.

The entries of ``state_dict()["state"]`` are put together from what was recorded of them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from optlab import codecs
from optlab.transforms import quantized
from tests import golden

FILE = golden.load("lowbit_traj")
TEN, FIFTY = 2, 3  # rows of the snapshots
SIGNED = codecs.dynamic8(exact=True)
UNSIGNED = codecs.dynamic8(signed=False, safe_zero=False, exact=True)


def qmap(signed):
    """The book of codes that bitsandbytes keeps with every state."""
    return codecs.from_bitsandbytes(jnp.arange(256, dtype=jnp.uint8), jnp.ones(1), signed=signed)


@functools.cache
def entry(name):
    """Of one parameter of 2 x 256 entries."""
    first, second = (FILE[f"{name}_{which}"][TEN].reshape(2, 256) for which in ("first", "second"))
    if f"{name}_slow" in FILE:
        first = np.stack([first, FILE[f"{name}_slow"].reshape(2, 256)])
    states = {"state1": first, "state2": second, "qmap1": qmap(True), "qmap2": qmap(False)}
    scales = {f"absmax{i}": FILE[f"{name}_absmax{i}"] for i in (1, 2)}
    return {"step": 10, **states, **scales}


CASES = {
    "bnb_adamw8bit": (
        quantized.adamw8bit(
            1e-2, weight_decay=0.01, codec={"mu": SIGNED, "nu": UNSIGNED}, min_size=1
        ),
        1e-5,
    ),
    "bnb_ademamix8bit": (
        quantized.ademamix8bit(
            1e-3,
            weight_decay=0.01,
            codec={"m1": SIGNED, "m2": SIGNED, "nu": UNSIGNED},
            min_size=1,
        ),
        5e-5,  # as in trajectories_test
    ),
}


@pytest.mark.parametrize(
    "name", ["bnb_adamw8bit", pytest.param("bnb_ademamix8bit", marks=pytest.mark.slow)]
)
def test_a_run_goes_on_as_it_would_have_there(name):
    tx, bound = CASES[name]
    start = FILE[f"{name}_p"][TEN].reshape(2, 256)
    state = quantized.load_bitsandbytes(tx.init({"w": jnp.asarray(start)}), {"w": entry(name)})
    grads = FILE["mild_grads"][10:].astype(np.float32).reshape(-1, 2, 256)

    def step(carry, g):
        return quantized.step(tx, carry[0], {"w": g}, carry[1]), None

    carry = {"w": jnp.asarray(start)}, state
    params, state = jax.jit(lambda c, g: jax.lax.scan(step, c, g)[0])(carry, jnp.asarray(grads))
    wanted = FILE[f"{name}_p"][FIFTY]
    error = np.linalg.norm(np.ravel(params["w"]) - wanted)
    assert error < bound * np.linalg.norm(wanted - np.ravel(start))
    np.testing.assert_array_equal(np.ravel(state.inner[0].nu["w"].code), FILE[f"{name}_second"][-1])
    assert int(state.inner[0].count) == 50


def test_moments_are_arranged_and_coded_anew():
    """A transposed weight in blocks that are not its own, and a bias left in float32."""
    tx = quantized.adamw8bit(1e-2, min_size=100)
    fresh = tx.init({"dense": {"kernel": jnp.ones((256, 2)), "bias": jnp.ones(3)}})
    weight = dict(entry("bnb_adamw8bit"))
    wrapped = {"step": 10, "__bnb_optimizer_quant_state__": weight}
    bias = {"step": 10, "state1": np.arange(3.0), "state2": np.ones(3)}
    entries = {"dense": {"kernel": wrapped, "bias": bias}}
    state = quantized.load_bitsandbytes(
        fresh, entries, arrange=lambda path, x: x.T if path == "dense/kernel" else x
    )
    adam, codec = state.inner[0], codecs.power8()
    exact = codecs.from_bitsandbytes(jnp.asarray(weight["state1"]), weight["absmax1"])
    found = codec.decode(adam.mu["dense"]["kernel"])
    assert np.linalg.norm(found - exact.T) < 0.02 * np.linalg.norm(exact)
    np.testing.assert_array_equal(adam.mu["dense"]["bias"], bias["state1"])
    np.testing.assert_array_equal(adam.nu["dense"]["bias"], bias["state2"])
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, fresh)
    with pytest.raises(ValueError, match=r"shape \(256, 2\), got \(2, 256\): arrange it"):
        quantized.load_bitsandbytes(fresh, entries)
    with pytest.raises(ValueError, match="entries must have the parameter of 0/mu/dense/bias"):
        quantized.load_bitsandbytes(fresh, {"dense": {"kernel": wrapped}})
    with pytest.raises(ValueError, match="entries must have a dict with 'state1'"):
        quantized.load_bitsandbytes(fresh, {"dense": {}})
    with pytest.raises(ValueError, match="state must have a QuantizedState"):
        quantized.load_bitsandbytes(fresh.inner, entries)


def test_states_of_an_nnx_model_are_filled():
    """Whose coded leaves lie in its own kind of mapping, under paths that end in ``value``."""
    tx = quantized.adamw8bit(1e-2, min_size=100)
    model = nnx.Linear(2, 256, use_bias=False, rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    entries = {"kernel": entry("bnb_adamw8bit")}
    want = quantized.load_bitsandbytes(tx.init({"kernel": jnp.ones((2, 256))}), entries)
    fresh = tx.init(params)
    for given in (entries, jax.tree.map(lambda p: entries["kernel"], params)):
        state = quantized.load_bitsandbytes(fresh, given)
        assert jax.tree.structure(state) == jax.tree.structure(fresh)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(state), jax.tree.leaves(want))
    updates, _ = tx.update(params, state, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
