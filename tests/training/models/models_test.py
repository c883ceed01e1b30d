"""What holds for every model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.training.models.case import CLASSES, MAKERS, case

pytestmark = pytest.mark.parametrize("name", MAKERS)


def test_one_logit_a_class(name):
    c = case(name)
    logits, _ = c.apply(c.params, c.rest, c.inputs)
    assert logits.shape == (*c.labels.shape, CLASSES)
    assert logits.dtype == jnp.float32
    assert np.isfinite(logits).all()


def test_the_key_alone_decides_the_start(name):
    c = case(name)
    jax.tree.map(np.testing.assert_array_equal, c.init(jax.random.key(7)), (c.params, c.rest))
    other, _ = c.init(jax.random.key(8))
    for a, b in zip(jax.tree.leaves(c.params), jax.tree.leaves(other), strict=True):
        assert a.ndim < 2 or (a != b).mean() > 0.9  # vectors are biases and scales


def test_learns_by_heart(name):
    """Adam fits four examples, and evaluation, on running statistics, agrees."""
    c, tx = case(name), optax.adam(0.03)

    def step(carry, _):
        params, rest, state = carry
        grads, rest = jax.grad(c.loss, has_aux=True)(params, rest, train=True)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), rest, state), None

    @jax.jit
    def fit(params, rest):
        start = params, rest, tx.init(params)  # a scan takes a rest that stays like itself only
        (params, rest, _), _ = jax.lax.scan(step, start, length=80)
        return c.loss(params, rest)[0]

    assert c.loss(c.params, c.rest)[0] > 1.0
    assert fit(c.params, c.rest) < 0.05


def _dtypes(tree):
    return jax.tree.map(lambda leaf: leaf.dtype, tree)


def test_bfloat16_parameters_compute_in_bfloat16(name):
    c = case(name)
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), c.params)
    logits, _ = c.apply(params, c.rest, c.inputs)
    expected, _ = c.apply(c.params, c.rest, c.inputs)
    assert logits.dtype == jnp.float32
    np.testing.assert_array_equal(logits, logits.astype(jnp.bfloat16).astype(jnp.float32))
    assert (logits != expected).any()
    np.testing.assert_allclose(logits, expected, atol=0.05)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_the_rest_keeps_its_dtypes(name, dtype):
    c = case(name)
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, dtype), c.params)
        apply = functools.partial(c.model.apply, train=True)
        logits, rest = jax.eval_shape(apply, params, c.rest, c.inputs)
    assert logits.dtype == ("float64" if dtype == "float64" else "float32")
    assert _dtypes(rest) == _dtypes(c.rest)


def _linear(n, m):
    return n * m + m


def _block(w):
    return 4 * _linear(w, w) + _linear(w, 4 * w) + _linear(4 * w, w) + 2 * 2 * w


PARAMETERS = {
    "mlp": _linear(128, 16) + _linear(16, CLASSES),
    "cnn": _linear(9 * 2, 8) + _linear(9 * 8, 8) + _linear(8, CLASSES),
    "few_shot_cnn": 9 * 2 * 8 + 9 * 8 * 8 + 2 * 2 * 8 + _linear(2 * 2 * 8, CLASSES),
    "resnet": 9 * (2 * 4 + 4 * 4 * 2 + (4 * 8 + 8 * 8) + (8 * 16 + 16 * 16))
    + 2 * (4 + 2 * 4 + 2 * 8 + 2 * 16)
    + _linear(16, CLASSES),
    "vit": _linear(4 * 4 * 2, 8) + 4 * 8 + 2 * _block(8) + 2 * 8 + _linear(8, CLASSES),
    "lstm": CLASSES * 8 + 2 * (8 * 32 + _linear(8, 32)) + _linear(8, CLASSES),
    "lstm_classifier": 9 * 8 + 8 * 32 + _linear(8, 32) + _linear(8, CLASSES),
    "gpt": CLASSES * 8 + 6 * 8 + 2 * _block(8) + 2 * 8 + 8 * CLASSES,
}


def test_number_of_parameters(name):
    sizes = [leaf.size for leaf in jax.tree.leaves(case(name).params)]
    assert sum(sizes) == PARAMETERS[name]
