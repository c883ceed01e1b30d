"""Loops of a traced length against loops of Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optlab._loops import repeat_up_to


def _looped(count, start, rate):
    """The step closes over the rate, and carries an integer."""

    def step(t, carry):
        value, taken = carry
        return {"a": jnp.sin(value["a"]) * rate + t}, taken + 1

    return repeat_up_to(4, count, step, ({"a": start}, jnp.int32(0)))


@pytest.mark.parametrize("count", [0, 3, 4])
def test_values_and_derivatives_are_those_of_the_loop(count):
    def by_hand(start, rate):
        for t in range(count):
            start = jnp.sin(start) * rate + t
        return start

    def looped(start, rate):
        return _looped(jnp.int32(count), start, rate)[0]["a"]

    at = (0.4, 1.3)
    np.testing.assert_allclose(jax.jit(looped)(*at), by_hand(*at), rtol=1e-6)
    expected = jax.grad(by_hand, argnums=(0, 1))(*at)
    np.testing.assert_allclose(jax.jit(jax.grad(looped, argnums=(0, 1)))(*at), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jacfwd(looped, argnums=(0, 1))(*at), expected, rtol=1e-5)


def test_counts_of_64_bits():
    with jax.enable_x64(True):
        looped = jax.grad(lambda start: _looped(jnp.asarray(3), start, 1.3)[0]["a"])
        assert bool(jnp.isfinite(jax.jit(looped)(jnp.float64(0.4))))


def test_vmap_takes_its_own_number_of_steps():
    counts = jnp.arange(5, dtype=jnp.int32)
    _, taken = jax.vmap(lambda n: _looped(n, 0.4, 1.3))(counts)
    assert taken.tolist() == [0, 1, 2, 3, 4]


def test_the_derivative_of_a_vmap_with_counts_of_their_own():
    def total(start):
        counts = jnp.arange(5, dtype=jnp.int32)
        return jax.vmap(lambda n: _looped(n, start, 1.3)[0]["a"])(counts).sum()

    np.testing.assert_allclose(jax.grad(total)(0.4), jax.jacfwd(total)(0.4), rtol=1e-5)


def test_turns_past_the_count_leave_derivatives_finite():
    """The root of zero, of an infinite slope, is that of the turn after the last."""
    slope = jax.grad(lambda a: repeat_up_to(3, jnp.int32(1), lambda t, c: jnp.sqrt(c) - 1, a))
    assert float(slope(1.0)) == 0.5
