"""SAGA's memory in a compiled loop: one row is read and written, the rest stays where it is."""

import jax
import jax.numpy as jnp
import numpy as np

from optlab.bilevel import saga

BATCHES, SIZE = 7, 1001
DIRECTION = saga(BATCHES)


def _oracle(point, batch):
    return jnp.sin(point) * batch


def _loop(state, point, indices):
    def step(carry, index):
        state, point = carry
        direction, state = DIRECTION.estimate(_oracle, point, index + 1.0, state, index=index)
        return (state, point - 0.1 * direction), None

    return jax.lax.scan(step, (state, point), indices)[0]


def test_no_step_copies_the_memory():
    point = jnp.ones(SIZE)
    state, indices = DIRECTION.init(point, ()), jnp.arange(20) % BATCHES
    compiled = jax.jit(_loop, donate_argnums=0).lower(state, point, indices).compile()
    assert f"f32[{BATCHES},{SIZE}]{{1,0}} copy(" not in compiled.as_text()
    (state, _), expected = compiled(state, point, indices), np.zeros((BATCHES, SIZE))
    mean, point = np.zeros(SIZE), np.ones(SIZE)
    for i in np.arange(20) % BATCHES:
        new = np.sin(point) * (i + 1.0)
        point = point - 0.1 * (new - expected[i] + mean)
        mean, expected[i] = mean + (new - expected[i]) / BATCHES, new
    np.testing.assert_allclose(state.memory, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.mean, mean, rtol=1e-4, atol=1e-5)
