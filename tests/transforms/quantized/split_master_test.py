"""bfloat16 parameters beside a float32 run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab.transforms.quantized import adamw8bit, split_master, stochastic_round_bf16

TARGET = jnp.asarray(np.random.default_rng(0).normal(size=(16, 256)), jnp.float32)


def run(tx, dtype, steps=300):
    def step(carry, _):
        x, state = carry
        updates, state = tx.update(0.1 * (x.astype(jnp.float32) - TARGET).astype(x.dtype), state, x)
        return (optax.apply_updates(x, updates), state), x

    x = jnp.ones_like(TARGET, dtype=dtype)
    (x, state), _ = jax.jit(lambda x: jax.lax.scan(step, (x, tx.init(x)), length=steps))(x)
    return x, state


@pytest.mark.parametrize("wrap", [split_master, stochastic_round_bf16])
def test_small_steps_count(wrap):
    """At a rate of 3e-3 a step moves most entries by less than half of bfloat16's spacing."""
    exact, _ = run(optax.sgd(3e-2), jnp.float32)
    stuck, _ = run(optax.sgd(3e-2), jnp.bfloat16)
    found, _ = run(wrap(optax.sgd(3e-2)), jnp.bfloat16)
    assert found.dtype == jnp.bfloat16

    def error(x):
        return float(jnp.linalg.norm(x.astype(jnp.float32) - exact))

    assert error(found) < 0.3 * error(stuck)


def test_master_has_sixteen_more_bits():
    exact, _ = run(optax.sgd(3e-2), jnp.float32)
    low, state = run(split_master(optax.sgd(3e-2)), jnp.bfloat16)
    assert state.residual.dtype == jnp.int8
    spacing = 2.0 ** (jnp.floor(jnp.log2(jnp.abs(low.astype(jnp.float32)))) - 7)
    master = low.astype(jnp.float32) + state.residual / 254 * spacing
    rounded = jnp.abs(low.astype(jnp.float32) - exact).max()
    # The gradients are taken at the bfloat16 parameters; against that the master is exact.
    assert jnp.abs(master - exact).max() < 0.5 * rounded


def test_over_an_eight_bit_optimizer():
    tx = split_master(adamw8bit(1e-2))
    x, state = run(tx, jnp.bfloat16, steps=2)
    assert state.inner.inner[0].mu.code.dtype == jnp.int8
    assert x.dtype == jnp.bfloat16
    fresh = tx.init(jnp.ones_like(TARGET, dtype=jnp.bfloat16))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, fresh)


def test_float32_leaves_are_left_alone():
    tx = split_master(optax.sgd(0.5))
    params = {"low": jnp.ones(2, jnp.bfloat16), "high": jnp.ones(2)}
    updates, state = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    assert state.residual["high"] is None
    assert updates["high"].tolist() == [-0.5, -0.5]


@pytest.mark.parametrize("wrap", [split_master, stochastic_round_bf16])
def test_params_are_needed(wrap):
    tx = wrap(optax.sgd(0.1))
    with pytest.raises(ValueError, match="params must be given"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2, jnp.bfloat16)))
