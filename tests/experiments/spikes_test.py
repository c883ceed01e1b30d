"""Spikes come at random steps and entries, to all optimizers alike."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.spikes import spiked, spikes


def test_a_share_of_the_entries_in_a_share_of_the_steps():
    tx, ones = spikes(100.0, chance=0.3, share=0.1), {"a": jnp.ones(150), "b": jnp.ones((10, 5))}
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: tx.update(ones, s)[::-1], s, length=300)[1])
    found = run(tx.init(ones))
    found = np.concatenate([found["a"], found["b"].reshape(300, -1)], axis=1)
    assert set(np.unique(found)) == {1.0, 100.0}
    hit = (found > 1).any(axis=1)
    assert 0.2 < hit.mean() < 0.4
    assert 0.08 < (found[hit] > 1).mean() < 0.12


def test_an_optimizer_gets_them():
    ones = jnp.ones(200)
    tx = spiked(1.0, "optax.sgd", 7.0, chance=1.0, share=0.5)
    updates, _ = tx.update(ones, tx.init(ones), ones)
    alone = spikes(7.0, chance=1.0, share=0.5)
    expected, _ = alone.update(ones, alone.init(ones))
    np.testing.assert_array_equal(updates, -expected)
    assert isinstance(tx, optax.GradientTransformation)
