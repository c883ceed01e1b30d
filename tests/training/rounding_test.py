"""bfloat16 parameters under an optimizer in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optlab.training._rounding import in_float32
from optlab.transforms import quantized


def test_steps_below_the_spacing_are_not_lost():
    """A hundred steps of 1e-4 down from one: to nearest each is lost, as bfloat16 steps by 4e-3."""
    tx = in_float32(optax.sgd(1e-4))
    params = jnp.ones(4000, jnp.bfloat16)

    @jax.jit
    def descend(params, key):
        def step(carry, key):
            params, state = carry
            updates, state = tx.update(jnp.ones_like(params), state, params, key=key)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), jax.random.split(key, 100))[0][0]

    end = descend(params, jax.random.key(0))
    assert end.dtype == jnp.bfloat16
    np.testing.assert_allclose(end.astype(jnp.float32).mean(), 0.99, atol=5e-4)


def test_the_optimizer_works_in_float32():
    tx = in_float32(optax.adam(0.1))
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    state = tx.init(params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {"float32", "int32"}
    _, after = tx.update(params, state, params, key=jax.random.key(0))
    assert jax.tree.map(jnp.dtype, jax.tree.map(lambda x: x.dtype, after)) == jax.tree.map(
        lambda x: x.dtype, state
    )


def test_steps_in_place_lose_nothing_either():
    """The same hundred steps by an optimizer with a step of its own, cut into chunks or whole."""
    tx = in_float32(quantized.fused(optax.sgd(1e-4, 0.0), chunk=1 << 11))
    params = {"cut": jnp.ones((64, 128), jnp.bfloat16), "whole": jnp.ones(900, jnp.bfloat16)}

    @jax.jit
    def descend(params, key):
        def move(carry, key):
            params, state = carry
            grads = jax.tree.map(jnp.ones_like, params)
            return quantized.step(tx, params, grads, state, key=key), None

        return jax.lax.scan(move, (params, tx.init(params)), jax.random.split(key, 100))[0][0]

    for end in descend(params, jax.random.key(0)).values():
        assert end.dtype == jnp.bfloat16
        np.testing.assert_allclose(end.astype(jnp.float32).mean(), 0.99, atol=1e-3)
        assert np.unique(end.astype(jnp.float32)).size > 1


def test_steps_in_place_have_no_float32_copy():
    tx = in_float32(quantized.fused(optax.adamw(1e-3), chunk=1 << 14))
    params = {"w": jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16)}
    state = jax.eval_shape(tx.init, params)
    step = jax.jit(lambda p, s, g, key: quantized.step(tx, p, g, s, key=key), donate_argnums=(0, 1))
    compiled = step.lower(params, state, params, jax.random.key(0)).compile()
    # Two bytes a parameter for casts of bits; the plain update has eighteen.
    assert compiled.memory_analysis().temp_size_in_bytes < 3 * 2**20
