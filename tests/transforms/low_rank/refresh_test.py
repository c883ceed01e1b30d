"""A refresh of the subspace neither traces nor compiles a step anew."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optlab
from optlab.transforms.low_rank import SpectralFactors, sparse_spectral
from tests.contract.case import like

MATRIX = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
FACTORS = SpectralFactors(np.eye(4, dtype=np.float32), np.ones(4, np.float32), MATRIX.T)
METHODS = {
    "dct_adamw": (optlab.dct_adamw, {"update_interval": 2}, MATRIX),
    "fira": (optlab.fira, {"update_interval": 2}, MATRIX),
    "galore": (optlab.galore, {"update_interval": 2}, MATRIX),
    "natural_galore": (optlab.natural_galore, {"update_interval": 2, "history": 2}, MATRIX),
    "trion": (optlab.trion, {}, MATRIX),  # in every step
    "sparse_spectral": (sparse_spectral, {"sample_interval": 2, "samples_per_round": 1}, FACTORS),
}


@pytest.mark.parametrize("name", METHODS)
def test_steps_across_refreshes_are_one_trace(name):
    make, arguments, params = METHODS[name]
    tx = make(optax.linear_schedule(0.1, 0.0, 5), rank=2, **arguments)
    traces = 0

    @jax.jit
    def step(gradients, state, params):
        nonlocal traces
        traces += 1
        return tx.update(gradients, state, params)

    params = jax.tree.map(jnp.asarray, params)
    state, kept = tx.init(params), []
    for seed in range(4):
        _, state = step(like(params, seed=seed), state, params)
        own = state.layers[0].indices if name == "sparse_spectral" else state[0].bases[0][0]
        kept.append(np.asarray(own))
    assert traces == step._cache_size() == 1
    assert any((old != new).any() for old, new in zip(kept, kept[1:], strict=False))
