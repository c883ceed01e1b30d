"""Models by name, from the fields of a config."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from optlab.training import ConfigError, ModelConfig
from optlab.training.models import functional, make_model

IMAGE, TEXT = (8, 8, 1), (16,)


def _parameters(config, shape):
    model = nnx.eval_shape(lambda: make_model(config, shape, 10, rngs=nnx.Rngs(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def _outputs(config, shape, classes, **kwargs):
    """The shape of the outputs for two examples."""
    model = functional(lambda key: make_model(config, shape, classes, rngs=nnx.Rngs(key), **kwargs))
    inputs = jnp.zeros((2, *shape), jnp.int32 if shape == TEXT else jnp.float32)
    params, rest = jax.eval_shape(model.init, jax.random.key(0))
    return jax.eval_shape(model.apply, params, rest, inputs)[0].shape


def test_a_vocabulary_makes_a_classifier():
    assert _outputs(ModelConfig(name="lstm"), TEXT, 3, vocabulary=30) == (2, 3)
    with pytest.raises(ConfigError, match=r"model\.name 'gpt' cannot classify sequences"):
        make_model(ModelConfig(name="gpt"), TEXT, 3, vocabulary=30, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("name", "shape", "fields"),
    [
        ("cnn", IMAGE, {"widths": (8,)}),
        ("few_shot_cnn", IMAGE, {"widths": (8,)}),
        ("gpt", TEXT, {"width": 8, "depth": 1, "heads": 2, "tied": True}),
        ("gpt", TEXT, {"stable_embedding": True}),
        ("lstm", TEXT, {"width": 8, "depth": 2}),
        ("mlp", IMAGE, {"widths": (8,)}),
        ("mlp", (30,), {"widths": ()}),
        ("mlp", IMAGE, {"layers": "spectral"}),
        ("resnet", IMAGE, {"width": 8, "depth": 1}),
        ("vit", IMAGE, {"patch": 8, "width": 8, "depth": 1, "heads": 2}),
    ],
)
def test_fields_reach_the_model(name, shape, fields):
    sizes = [_parameters(ModelConfig(name=name), shape)]
    for field, value in fields.items():
        sizes.append(_parameters(ModelConfig(name=name, **{field: value}), shape))
    assert len(set(sizes)) == len(sizes) - ("heads" in fields)  # heads share the same matrices
    expected = (2, 16, 10) if shape == TEXT else (2, 10)
    assert _outputs(ModelConfig(name=name, **fields), shape, 10) == expected


@pytest.mark.parametrize(
    ("config", "shape", "message"),
    [
        ({"name": "vit-b"}, IMAGE, r"model\.name 'vit-b' is unknown; did you mean vit\?"),
        (
            {"name": "mlp", "width": 8},
            IMAGE,
            r"model\.width is no field of 'mlp', which has widths, layers\.",
        ),
        (
            {"name": "resnet", "widths": (8, 8)},
            IMAGE,
            r"model\.widths is no field of 'resnet', which has width, depth\.",
        ),
        (
            {"name": "vit", "dropout": 1.0},
            IMAGE,
            r"model\.dropout must lie in \[0, 1\), got 1\.0\.",
        ),
        ({"name": "lstm", "tied": True}, TEXT, r"model\.tied is no field of 'lstm'"),
        (
            {"name": "gpt"},
            IMAGE,
            r"model\.name 'gpt' wants examples of shape \(length\), got \(8, 8, 1\)\.",
        ),
        (
            {"name": "cnn"},
            TEXT,
            r"model\.name 'cnn' wants examples of shape \(height, width, channels\), got \(16,\)\.",
        ),
    ],
)
def test_mistakes_are_told_in_a_sentence(config, shape, message):
    with pytest.raises(ConfigError, match=message):
        make_model(ModelConfig(**config), shape, 10, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("name", "first"), [("mlp", "hidden"), ("cnn", "convs")])
def test_tract_changes_the_gradient_of_the_first_layer_alone(name, first):
    images = jax.random.normal(jax.random.key(0), (3, *IMAGE))
    gradients = []
    for layers in ("plain", "tract"):
        config = ModelConfig(name=name, widths=(4, 4), layers=layers)
        model = functional(lambda key, c=config: make_model(c, IMAGE, 10, rngs=nnx.Rngs(key)))
        params, rest = jax.jit(model.init)(jax.random.key(1))

        def gradient(params, model=model, rest=rest):
            return jax.grad(lambda p: model.apply(p, rest, images)[0].sum())(params)

        gradients.append(jax.jit(gradient)(params))
    plain, tract = gradients
    kernels = plain[first][0].pop("kernel"), tract[first][0].pop("kernel")
    assert jnp.abs(kernels[0] - kernels[1]).max() > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, tract)
