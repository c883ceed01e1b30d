"""Layer statistics of Flax models, in both of its module systems, are those of bare arrays."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from optlab.training._watch import watch_linen, watch_nnx
from optlab.transforms.curvature import layer_taps, mkor


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        for size in (4, 3):
            x = jnp.tanh(nn.Dense(size)(x))
        return nn.Dense(2, use_bias=False, name="head")(inputs=x)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        sizes = (5, 4, 3)
        self.layers = nnx.List(
            [nnx.Linear(*pair, rngs=rngs) for pair in zip(sizes, sizes[1:], strict=False)]
        )
        self.head = nnx.Linear(3, 2, use_bias=False, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return self.head(x)


X = jax.random.normal(jax.random.key(0), (8, 5))


def linen():
    params = Linen().init(jax.random.key(1), X)["params"]

    def loss(params, taps):
        with watch_linen(taps):
            return jnp.mean(jnp.sum(Linen().apply({"params": params}, X) ** 2, axis=1))

    return params, loss, ("Dense_0", "Dense_1", "head")


def nnx_model():
    graph, params = nnx.split(Nnx(nnx.Rngs(1)), nnx.Param)

    def loss(params, taps):
        with watch_nnx(nnx.merge(graph, params), taps) as model:
            value = jnp.mean(jnp.sum(model(X) ** 2, axis=1))
        assert nnx.split(model)[0] == graph  # nothing of the watch is left
        return value

    return params, loss, ("layers/0", "layers/1", "head")


def by_path(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return {
        name.removesuffix("/value"): leaf for name, (_, leaf) in zip(names, leaves, strict=True)
    }


@pytest.mark.parametrize("make", [linen, nnx_model])
def test_statistics_are_those_of_bare_arrays(make):
    params, loss, names = make()
    taps = layer_taps(params)
    assert set(taps) == set(names)
    plain = jax.grad(loss)(params, {})
    gradients, statistics = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, taps)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), gradients, plain)

    flat, slopes = by_path(params), by_path(gradients)
    x = X
    for name in names:
        np.testing.assert_allclose(statistics[name].inputs, x.mean(0), rtol=1e-5, atol=1e-6)
        if name != "head":
            # The mean gradient by the outputs is the gradient of the bias.
            np.testing.assert_allclose(statistics[name].outputs, slopes[f"{name}/bias"], rtol=1e-5)
            x = jnp.tanh(x @ flat[f"{name}/kernel"] + flat[f"{name}/bias"][None])
    y = x @ flat["head/kernel"]
    np.testing.assert_allclose(statistics["head"].outputs, 2 * y.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [linen, nnx_model])
def test_mkor_trains_it(make):
    params, loss, _ = make()
    tx = mkor(0.05, update_interval=1, weight_decay=1e-3)

    @jax.jit
    def step(params, state):
        value, (gradients, statistics) = jax.value_and_grad(loss, argnums=(0, 1))(
            params, layer_taps(params)
        )
        updates, state = tx.update(gradients, state, params, statistics=statistics)
        return optax.apply_updates(params, updates), state, value

    state, values = tx.init(params), []
    for _ in range(30):
        params, state, value = step(params, state)
        values.append(float(value))
    assert values[-1] < 0.05 * values[0]


class Convolution(nnx.Module):
    def __init__(self, rngs):
        options = {"strides": 2, "padding": "VALID", "kernel_dilation": 2}
        self.conv = nnx.Conv(2, 3, (2, 3), **options, rngs=rngs)

    def __call__(self, x):
        return self.conv(x)


def test_convolutions_are_watched_as_layers_of_patches():
    images = jax.random.normal(jax.random.key(2), (4, 7, 8, 2))
    graph, params = nnx.split(Convolution(nnx.Rngs(1)), nnx.Param)

    def loss(params, taps):
        with watch_nnx(nnx.merge(graph, params), taps) as model:
            return jnp.mean(jnp.sum(model(images) ** 2, axis=-1))

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))
    slopes, statistics = gradients(params, layer_taps(params))
    found = statistics["conv"]
    # Kernel positions (0 or 2, 0, 2 or 4) under a window at rows 0, 2, 4 and columns 0, 2.
    mean = [
        images[:, i : i + 5 : 2, j : j + 3 : 2].mean((0, 1, 2)) for i in (0, 2) for j in (0, 2, 4)
    ]
    np.testing.assert_allclose(found.inputs, np.concatenate(mean), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.outputs, by_path(slopes)["conv/bias"], rtol=1e-4, atol=1e-6)
