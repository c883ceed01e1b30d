"""bfloat16 parameters under an optimizer in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optlab.training._rounding import in_float32


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
