"""LoRA as a transformation of kernels is Adam on the two factors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.lora import lora


def test_is_adam_on_the_factors_beside_the_first_kernel():
    keys = jax.random.split(jax.random.key(0), 3)
    x, y = jax.random.normal(keys[0], (8, 5)), jax.random.normal(keys[1], (8, 4))
    kernel, bias = jax.random.normal(keys[2], (5, 4)), jnp.zeros(4)

    def loss(params):
        return jnp.mean((jnp.tanh(x @ params["kernel"] + params["bias"][None]) - y) ** 2)

    def run(tx, value_of, params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(value_of)(params), state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        return jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=6)[1])(params)

    params = {"kernel": kernel, "bias": bias}
    tx = lora(0.1, rank=2)
    found = run(tx, loss, params)
    first = tx.init(params).adapters["kernel"]

    def loss_of_factors(factors):
        b, a = factors["kernel"]
        return loss({"kernel": kernel + b @ a, "bias": factors["bias"]})

    factors = run(optax.adam(0.1), loss_of_factors, {"kernel": (first.b, first.a), "bias": bias})
    b, a = factors["kernel"]
    np.testing.assert_allclose(found["kernel"], kernel[None] + b @ a, rtol=0, atol=2e-5)
    np.testing.assert_allclose(found["bias"], factors["bias"], rtol=0, atol=2e-5)
    assert float(jnp.abs(found["kernel"][-1] - kernel).max()) > 0.1
