"""Layers that take hyperparameters: their formula, their plain twins, one set an example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from optlab.training.models import HyperConv, HyperDense, HyperLSTMCell, hyper_dropout

N, BATCH = 3, 4
RNG = np.random.default_rng(0)
HYPERS = jnp.asarray(RNG.standard_normal((BATCH, N)), jnp.float32)
ROWS = jnp.asarray(RNG.standard_normal((BATCH, 5)), jnp.float32)
IMAGES = jnp.asarray(RNG.standard_normal((BATCH, 6, 6, 2)), jnp.float32)


def _dense(**options):
    return HyperDense(5, 7, N, rngs=nnx.Rngs(0), **options)


def _conv(**options):
    return HyperConv(2, 4, (3, 3), N, strides=2, rngs=nnx.Rngs(1), **options)


LAYERS = {
    "dense": (_dense(), ROWS),
    "dense_invariant": (_dense(magnitude_invariant=True), ROWS),
    "dense_on_sequences": (_dense(), ROWS[:, None] * jnp.arange(1.0, 4.0)[None, :, None]),
    "dense_without_bias": (_dense(use_bias=False), ROWS),
    "conv": (_conv(), IMAGES),
    "conv_without_bias": (_conv(use_bias=False), IMAGES),
}


@pytest.mark.parametrize("name", LAYERS)
def test_one_set_an_example_is_a_loop_over_examples(name):
    layer, inputs = LAYERS[name]
    alone = jax.jit(lambda x, h: layer(x[None], h)[0])
    together = jax.jit(lambda x, h: layer(x, h))(inputs, HYPERS)
    one_by_one = [alone(x, h) for x, h in zip(inputs, HYPERS, strict=True)]
    np.testing.assert_allclose(jnp.stack(one_by_one), together, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(alone)(inputs, HYPERS), together, atol=1e-6)
    assert float(jnp.abs(alone(inputs[0], jnp.zeros(N)) - together[0]).max()) > 1e-3  # it answers


def test_dense_is_its_formula():
    layer = _dense()
    w, b, v, c = (
        np.asarray(p[...]) for p in (layer.kernel, layer.bias, layer.hyper_kernel, layer.hyper_bias)
    )
    layer.scale[...] = jnp.array(1.5)
    for x, h, out in zip(ROWS, HYPERS, layer(ROWS, HYPERS), strict=True):
        gains = np.asarray(h) @ np.asarray(layer.gains[...])
        expected = 1.5 * (x @ w + b) + gains[:7] * (x @ v) + gains[7:] * c
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_squared_norm_is_that_of_the_kernel_at_the_hyperparameters():
    for layer, shape in ((_dense(), (5, 7)), (_conv(magnitude_invariant=True), (3, 3, 2, 4))):
        layer.scale[...] = jnp.array(0.7)
        zero = layer.squared_norm(None)
        np.testing.assert_allclose(zero, 0.49 * jnp.sum(layer.kernel[...] ** 2), rtol=1e-5)
        # The layer is linear in its inputs: those that are one at one place read the kernel off.
        units = jnp.eye(np.prod(shape[:-1])).reshape(-1, *shape[:-1])
        if len(shape) == 4:
            layer.padding = "VALID"
        layer.bias[...], layer.hyper_bias[...] = (jnp.zeros(shape[-1:]),) * 2
        kernel = layer(units, HYPERS[0])
        np.testing.assert_allclose(layer.squared_norm(HYPERS[0]), jnp.sum(kernel**2), rtol=1e-5)


def test_at_zero_they_are_the_plain_layers():
    dense, plain = _dense(), nnx.Linear(5, 7, rngs=nnx.Rngs(2))
    plain.kernel[...], plain.bias[...] = dense.kernel[...], dense.bias[...]
    np.testing.assert_allclose(dense(ROWS, jnp.zeros(N)), plain(ROWS), atol=1e-6)

    conv, plain = _conv(), nnx.Conv(2, 4, (3, 3), strides=2, rngs=nnx.Rngs(2))
    plain.kernel[...], plain.bias[...] = conv.kernel[...], conv.bias[...]
    np.testing.assert_allclose(conv(IMAGES, jnp.zeros((BATCH, N))), plain(IMAGES), atol=1e-5)
    np.testing.assert_array_equal(conv(IMAGES, None), conv(IMAGES, jnp.zeros(N)))


def test_the_cell_at_zero_is_the_plain_one():
    cell = HyperLSTMCell(5, 6, N, rngs=nnx.Rngs(0))
    plain = nnx.LSTMCell(5, 6, rngs=nnx.Rngs(1))
    gates = [("ii", "hi"), ("if_", "hf"), ("ig", "hg"), ("io", "ho")]
    for k, (own, recurrent) in enumerate(gates):
        part = slice(6 * k, 6 * (k + 1))
        getattr(plain, own).kernel[...] = cell.inputs.kernel[:, part]
        getattr(plain, recurrent).kernel[...] = cell.recurrent.kernel[:, part]
        getattr(plain, recurrent).bias[...] = cell.inputs.bias[part]
    carry = (jnp.ones((BATCH, 6)), jnp.full((BATCH, 6), 0.5))
    new, out = cell(carry, ROWS, jnp.zeros(N))
    expected, plain_out = plain(carry, ROWS)
    np.testing.assert_allclose(out, plain_out, atol=1e-6)
    np.testing.assert_allclose(new[0], expected[0], atol=1e-6)
    alone = [
        cell(jax.tree.map(lambda a, i=i: a[i : i + 1], carry), ROWS[i : i + 1], HYPERS[i])[1][0]
        for i in range(BATCH)
    ]
    np.testing.assert_allclose(cell(carry, ROWS, HYPERS)[1], jnp.stack(alone), atol=1e-6)


@pytest.mark.parametrize("name", ["dense", "conv"])
def test_derivatives_in_hyperparameters_are_differences(name):
    """The layers are linear in them: a central difference of any width is exact."""
    layer, inputs = LAYERS[name]
    direction = jnp.asarray(RNG.standard_normal((BATCH, N)), jnp.float32)
    _, along = jax.jvp(lambda h: layer(inputs, h), (HYPERS,), (direction,))
    difference = layer(inputs, HYPERS + direction) - layer(inputs, HYPERS - direction)
    np.testing.assert_allclose(along, difference / 2, rtol=1e-3, atol=1e-6)


def test_the_encoding_has_one_length_whatever_the_hyperparameters():
    layer = _dense(magnitude_invariant=True)
    # With W' = 0 and b' = 1 a layer's answer is A h; rows of a unit matrix read the encoding off.
    layer.hyper_kernel[...] = jnp.zeros((5, 7))
    layer.hyper_bias[...] = jnp.ones(7)
    layer.gains[...] = jnp.eye(2 * N, 14, k=7)
    wide = jnp.array([[-40.0, 0.0, 40.0], [1.0, 2.0, 3.0]])
    encoded = (layer(ROWS[:2], wide) - ROWS[:2] @ layer.kernel[...] - layer.bias[...][None])[:, :6]
    np.testing.assert_allclose(jnp.sum(encoded**2, axis=1), N, rtol=1e-5)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(encoded[0], [1, half, 0, 0, half, 1], atol=1e-5)


def test_linear_networks_answer_by_sigmoids_of_which_the_layer_is_the_linear_part():
    """The paper's example: the best response to a penalty exp(h) on the network's Jacobian."""
    rng = np.random.default_rng(3)
    data, targets = rng.standard_normal((30, 5)), rng.standard_normal(30)
    u, s, vt = np.linalg.svd(data, full_matrices=False)

    def best(h):
        return np.linalg.solve(data.T @ data + np.exp(h) * np.eye(5), data.T @ targets)

    def hidden(h):
        """Hidden units of the network whose first layer is V^T, gated, and whose second is c."""
        return (1.0 / (1.0 + np.exp(h - 2 * np.log(s))))[:, None] * vt

    second = (u.T @ targets) / s
    for h in (-2.0, 0.0, 3.0):
        np.testing.assert_allclose(second @ hidden(h), best(h), rtol=1e-8)

    center = 3.0
    gate = 1.0 / (1.0 + np.exp(center - 2 * np.log(s)))
    layer = HyperDense(5, 5, 1, use_bias=False, rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.asarray(hidden(center).T, jnp.float32)
    layer.hyper_kernel[...] = jnp.asarray(vt.T, jnp.float32)
    layer.gains[...] = jnp.asarray(-(gate * (1 - gate))[None], jnp.float32)

    def error(step):
        predicted = layer(jnp.eye(5), jnp.array([step])) @ jnp.asarray(second, jnp.float32)
        return np.linalg.norm(predicted - best(center + step))

    assert 3.0 < error(0.4) / error(0.2) < 5.0  # of second order


def test_dropout_takes_a_rate_an_example():
    ones = jnp.ones((3, 4000))
    rates = jnp.array([0.0, 0.25, 0.8])
    dropped = hyper_dropout(ones, rates, jax.random.key(0))
    np.testing.assert_allclose(jnp.mean(dropped == 0, axis=1), rates, atol=0.03)
    np.testing.assert_allclose(jnp.max(dropped, axis=1), 1 / (1 - rates), rtol=1e-6)
    slope = jax.grad(lambda r: jnp.sum(hyper_dropout(ones, r, jax.random.key(0))))(rates)
    assert not slope.any()
