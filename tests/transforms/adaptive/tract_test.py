"""TrAct against the authors' code, its closed form in any layout, in Flax, and its claim."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

from optlab.transforms import tract_conv, tract_dense
from tests import golden

MATMUL = (((1,), (0,)), ((), ()))


def gradients(layer, file, name, kernel):
    inputs = [jnp.asarray(file[f"{name}_{key}"]) for key in ("x", "b")]
    y, vjp = jax.vjp(layer, inputs[0], jnp.asarray(kernel), inputs[1])
    np.testing.assert_allclose(y, file[f"{name}_y"], atol=1e-5)
    return vjp(jnp.asarray(file[f"{name}_gout"]))


@pytest.mark.parametrize("name", ["lin_tall", "lin_wide"])
def test_dense_replays_the_authors_code(name):
    file = golden.load("opt_tract")
    dense = tract_dense(file["hyper"]["lambda_"])
    found = gradients(
        lambda x, k, b: dense(x, k, MATMUL) + b[None], file, name, file[f"{name}_W"].T
    )
    expected = file[f"{name}_gx"], file[f"{name}_gW"].T, file[f"{name}_gb"]
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(f, e, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["conv_tall", "conv_wide"])
def test_conv_replays_the_authors_code(name):
    file = golden.load("opt_tract")
    stride, padding = (file["hyper"][name][key] for key in ("stride", "padding"))
    conv = tract_conv(file["hyper"]["lambda_"])

    def layer(x, kernel, bias):
        y = conv(x, kernel, (stride, stride), [(padding, padding)] * 2)
        return y + bias[None, :, None, None]

    _, kernel, bias = gradients(layer, file, name, file[f"{name}_W"])
    np.testing.assert_allclose(kernel, file[f"{name}_gW"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(bias, file[f"{name}_gb"], rtol=0, atol=1e-5)


def closed_form(layer, x, kernel, cotangent, outputs, damping):
    """The rule on the layer's own Jacobian, which holds X once for each output."""
    jacobian = np.asarray(jax.jacfwd(lambda k: layer(x, k))(kernel)).reshape(-1, kernel.size)
    gram = jacobian.T @ jacobian / (cotangent.size / outputs)
    plain = jacobian.T @ np.asarray(cotangent).ravel()
    return np.linalg.solve(gram + damping * np.eye(kernel.size), plain).reshape(kernel.shape)


@pytest.mark.parametrize("rows", [(2, 2), (9, 3)], ids=["fewer rows", "more rows"])
def test_dense_has_its_closed_form(rows):
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 3)
        x, kernel = jax.random.normal(keys[0], (*rows, 7)), jax.random.normal(keys[1], (7, 3))
        cotangent = jax.random.normal(keys[2], (*rows, 3))
        numbers = (((2,), (0,)), ((), ()))
        dense = tract_dense(0.3)
        found = jax.vjp(lambda k: dense(x, k, numbers), kernel)[1](cotangent)[0]
        expected = closed_form(
            lambda x, k: lax.dot_general(x, k, numbers), x, kernel, cotangent, 3, 0.3
        )
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


CONVOLUTIONS = {
    "NHWC": ((2, 7, 6, 2), (3, 2, 2, 3), {"window_strides": (2, 1), "padding": "SAME"}, "HWIO"),
    "dilated": (
        (2, 7, 6, 2),
        (2, 2, 2, 3),
        {"window_strides": (1, 1), "padding": "VALID", "rhs_dilation": (2, 3)},
        "HWIO",
    ),
    "NHC": ((3, 9, 2), (4, 2, 3), {"window_strides": (2,), "padding": [(1, 2)]}, "HIO"),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_conv_has_its_closed_form(name):
    shape, kernel_shape, options, layout = CONVOLUTIONS[name]
    images = "NHWC" if len(shape) == 4 else "NHC"
    options = options | {"dimension_numbers": (images, layout, images)}
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(1), 3)
        x, kernel = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], kernel_shape)

        def layer(x, kernel):
            return lax.conv_general_dilated(x, kernel, **options)

        cotangent = jax.random.normal(keys[2], layer(x, kernel).shape)
        rule = tract_conv(0.2)
        y, vjp = jax.vjp(lambda x, k: rule(x, k, **options), x, kernel)
        found = vjp(cotangent)
        expected = closed_form(layer, x, kernel, cotangent, 3, 0.2)
        np.testing.assert_array_equal(y, layer(x, kernel))
        plain = jax.vjp(lambda x: layer(x, kernel), x)[1](cotangent)[0]
    np.testing.assert_allclose(found[1], expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(found[0], plain)


def test_heavy_damping_gives_back_the_usual_gradient():
    keys = jax.random.split(jax.random.key(2), 3)
    x, kernel, cotangent = (
        jax.random.normal(k, s) for k, s in zip(keys, [(8, 5), (5, 4), (8, 4)], strict=True)
    )
    found = jax.vjp(lambda k: tract_dense(1e6)(x, k, MATMUL), kernel)[1](cotangent)[0]
    np.testing.assert_allclose(1e6 * found, x.T @ cotangent, rtol=1e-4, atol=1e-4)


def test_keeps_dtypes_under_jit_and_vmap():
    x, kernel = jnp.ones((2, 4, 3), jnp.bfloat16), jnp.ones((3, 2), jnp.bfloat16)
    loss = lambda k, x: tract_dense()(x, k, MATMUL).sum()  # noqa: E731
    found = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(kernel, x)
    assert found.dtype == jnp.bfloat16
    # All ones: (J + 0.1 I)^-1 of a vector of fours, J all ones, is 4 / (3 + 0.1).
    np.testing.assert_allclose(np.float32(found), 4 / 3.1, rtol=1e-2)


def test_serves_flax_layers():
    x = jax.random.normal(jax.random.key(3), (5, 6, 6, 2))
    dense = nnx.Linear(2, 4, dot_general=tract_dense(), rngs=nnx.Rngs(0))
    conv = nnx.Conv(2, 4, (3, 3), strides=2, conv_general_dilated=tract_conv(), rngs=nnx.Rngs(0))
    for layer in (dense, conv):
        usual = nnx.clone(layer)
        usual.dot_general, usual.conv_general_dilated = lax.dot_general, lax.conv_general_dilated
        gradient = nnx.jit(nnx.grad(lambda m: jnp.sum(m(x) ** 2)))
        ours, theirs = gradient(layer), gradient(usual)
        np.testing.assert_allclose(ours["bias"][...], theirs["bias"][...], rtol=1e-5)
        assert np.abs(ours["kernel"][...] - theirs["kernel"][...]).max() > 1
    linen = nn.Conv(4, (3, 3), conv_general_dilated=tract_conv())
    params = jax.jit(linen.init)(jax.random.key(0), x)
    found = jax.jit(jax.grad(lambda p: jnp.sum(linen.apply(p, x) ** 2)))(params)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, params)


def trained(dense, data, rate):
    """Training loss of a small network on data of uneven contrast, after 100 steps."""
    x, labels = data
    keys = jax.random.split(jax.random.key(0), 2)
    sizes = [(x.shape[1], 64), (64, 10)]
    params = [jax.random.normal(k, s) * (2 / s[0]) ** 0.5 for k, s in zip(keys, sizes, strict=True)]
    tx = optax.sgd(rate, momentum=0.9)

    def loss(params, x, labels):
        logits = jax.nn.relu(dense(x, params[0], MATMUL)) @ params[1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(carry, key):
        params, state = carry
        batch = jax.random.choice(key, x.shape[0], (128,))
        updates, state = tx.update(jax.grad(loss)(params, x[batch], labels[batch]), state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(1), 100)
    params = jax.lax.scan(step, (params, tx.init(params)), keys)[0][0]
    return loss(params, x, labels)


@pytest.mark.slow
def test_lowers_the_training_loss_on_digits_of_uneven_contrast():
    from sklearn.datasets import load_digits

    digits = load_digits()
    contrast = np.random.default_rng(0).uniform(0.1, 1.5, size=(len(digits.data), 1))
    images = (digits.data - digits.data.mean()) / digits.data.std()
    data = jnp.asarray(contrast * images, jnp.float32), jnp.asarray(digits.target)
    rates = jnp.array([0.01, 0.03, 0.1, 0.3])
    ours, usual = (
        float(jnp.nanmin(jax.jit(jax.vmap(lambda r, d=d: trained(d, data, r)))(rates)))
        for d in (tract_dense(), lax.dot_general)
    )
    assert ours < 0.75 * usual


@pytest.mark.parametrize("factory", [tract_dense, tract_conv])
def test_damping_must_be_positive(factory):
    with pytest.raises(ValueError, match=r"^damping must lie in"):
        factory(0.0)


def test_errors_name_the_argument():
    x, kernel = jnp.ones((2, 3)), jnp.ones((4, 3))
    with pytest.raises(ValueError, match=r"^dimension_numbers must contract"):
        tract_dense()(x, kernel, (((1,), (1,)), ((), ())))
    images, kernel = jnp.ones((1, 4, 5, 5)), jnp.ones((4, 2, 3, 3))
    with pytest.raises(ValueError, match=r"^feature_group_count must be 1"):
        tract_conv()(images, kernel, (1, 1), "SAME", feature_group_count=2)
