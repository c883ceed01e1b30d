"""Percentile clipping against a transcription of bitsandbytes' rule, and at its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab.transforms import percentile_clip
from tests.contract import numerics, protocol, sharding
from tests.contract.case import Case


def clipped(tx, grads):
    """The clipped gradients along a stream, ``[steps, ...]`` a leaf, and the last state."""
    step = lambda state, g: tx.update(g, state)[::-1]  # noqa: E731
    first = jax.tree.map(lambda g: g[0], grads)
    state, found = jax.jit(lambda g: jax.lax.scan(step, tx.init(first), g))(grads)
    return found, state


def reference(grads, percentile, history):
    """A ring of squared norms that the first one fills, as bitsandbytes keeps it, in float64."""
    found = []
    for step, g in enumerate(np.asarray(grads, np.float64)):
        square = (g**2).sum()
        if step == 0:
            ring = np.full(history, square)
        ring[step % history] = square
        index = min(int(percentile * history / 100), history - 1)
        limit = np.sqrt(np.sort(ring)[index])
        found.append(g * min(1.0, limit / np.sqrt(square)))
    return np.stack(found)


@pytest.mark.parametrize(("percentile", "history"), [(5, 100), (50, 8), (37.5, 16), (100, 8)])
def test_follows_the_released_rule(percentile, history):
    rng = np.random.default_rng(history)
    lengths = rng.lognormal(sigma=1.5, size=(120, 1, 1))
    grads = {
        "w": np.float32(lengths * rng.normal(size=(120, 3, 2))),
        "b": np.float32(lengths[..., 0] * rng.normal(size=(120, 4))),
    }
    found, _ = clipped(percentile_clip(percentile, history=history), grads)
    for name, g in grads.items():
        np.testing.assert_allclose(found[name], reference(g, percentile, history), rtol=1e-5)
        cut = np.abs(found[name] - g).max() > 0
        assert cut == (percentile < 100)


def test_zeros_before_the_first_gradient_are_no_history():
    grads = np.zeros((6, 2), np.float32)
    grads[3:] = [[3.0, 4.0], [6.0, 8.0], [0.3, 0.4]]
    found, _ = clipped(percentile_clip(5), grads)
    expected = grads.copy()
    expected[4] = grads[3]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_what_is_not_finite_is_passed_and_not_recorded():
    good = np.array([[3.0, 4.0], [30.0, 40.0]], np.float32)
    bad = np.array([[np.nan, 1.0], [np.inf, 1.0]], np.float32)
    found, state = clipped(percentile_clip(5), np.concatenate([good[:1], bad, good[1:]]))
    np.testing.assert_array_equal(found[1:3], bad)
    np.testing.assert_allclose(found[3], good[0], rtol=1e-6)
    np.testing.assert_allclose(np.unique(state.norms), [5.0, 50.0], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_norms_neither_over_nor_underflow(scale):
    grads = np.float32(scale) * np.array([[3.0, 4.0], [6.0, 8.0]], np.float32)
    found, _ = clipped(percentile_clip(5), grads)
    np.testing.assert_allclose(found[1], grads[0], rtol=1e-6)


def test_state_is_a_ring_a_leaf():
    state = percentile_clip(history=10).init({"w": jnp.zeros((6, 4)), "b": None})
    assert sum(x.size for x in jax.tree.leaves(state.norms)) == 10


CASE = Case(
    "percentile_clip",
    lambda learning_rate: optax.chain(percentile_clip(20, history=5), optax.sgd(learning_rate)),
    {"learning_rate": 0.1},
    state_bytes=0.0,
)


@pytest.mark.parametrize(
    "check",
    [
        numerics.check_bfloat16,
        numerics.check_gradient_scales,
        numerics.check_nested_and_none,
        numerics.check_vmap_equals_loop,
        numerics.check_x64,
        numerics.check_zero_size_leaf,
        protocol.check_state_never_aliases,
        protocol.check_state_types_fixed,
        sharding.check_sharding_explicit,
    ],
)
def test_contract(check):
    """As it is no optimizer, the catalog's sweep does not see it."""
    check(CASE)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"percentile": -1}, "percentile"),
        ({"percentile": 101}, "percentile"),
        ({"history": 0}, "history"),
    ],
)
def test_errors_name_the_argument(arguments, name):
    with pytest.raises(ValueError, match=rf"^{name} must"):
        percentile_clip(**arguments)
