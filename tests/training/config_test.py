"""Configs: overrides, variants, files, checks."""

import dataclasses

import pytest

from optlab import training
from optlab.training import ConfigError, OptimizerConfig, TrainConfig


def test_override_leaves_the_original_alone():
    config = TrainConfig(optimizer=OptimizerConfig(arguments={"b1": 0.9}))
    changed = training.override(
        config, {"steps": 3, "optimizer.arguments.b1": 0.5, "optimizer.arguments.b2": 0.7}
    )
    assert changed.steps == 3
    assert changed.optimizer.arguments == {"b1": 0.5, "b2": 0.7}
    assert config == TrainConfig(optimizer=OptimizerConfig(arguments={"b1": 0.9}))


@pytest.mark.parametrize("path", ["stepss", "optimizer.lerning_rate", "steps.more", "model.depht"])
def test_unknown_field_is_named(path):
    holder, _, name = f"config.{path}".rpartition(".")
    with pytest.raises(ConfigError, match=rf"^{holder} has no field '{name}'; "):
        training.override(TrainConfig(), {path: 1})


def test_misspelt_attribute_is_an_error():
    with pytest.raises(AttributeError):
        TrainConfig().optimizer.lerning_rate = 0.1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("steps", 1.5),
        ("steps", True),
        ("steps", 0),
        ("seed", -1),
        ("optimizer.learning_rate", "big"),
        ("optimizer.warmup_steps", -1),
        ("optimizer.warmup_steps", 10_000),
        ("optimizer.arguments", 3),
        ("model.widths", (64, 1.5)),
        ("model.widths", 64),
        ("data.name", None),
    ],
)
def test_wrong_value_names_its_field(path, value):
    with pytest.raises(ConfigError, match=rf"^config\.{path} must "):
        training.validate(training.override(TrainConfig(), {path: value}))


def test_an_int_serves_as_a_float():
    training.validate(training.override(TrainConfig(), {"optimizer.learning_rate": 1}))


def test_variant_takes_names_and_pairs_in_order():
    variants = {"small": {"steps": 5, "model.widths": (8,)}}
    text = (
        "small,steps=7,model.widths=(4, 4),optimizer.arguments.kappa=lp(1.5),optimizer.name=lion_k"
    )
    config = training.apply_variant(TrainConfig(), text, variants)
    assert (config.steps, config.model.widths) == (7, (4, 4))
    assert config.optimizer.arguments == {"kappa": "lp(1.5)"}
    with pytest.raises(ConfigError, match="did you mean small"):
        training.apply_variant(TrainConfig(), "smal", variants)


def test_load_config(tmp_path):
    file = tmp_path / "c.py"
    file.write_text(
        "from optlab.training import TrainConfig, apply_variant\n"
        "def get_config(variant=''):\n"
        "    return apply_variant(TrainConfig(), variant, {'two': {'seed': 2}})\n"
    )
    assert training.load_config(f"{file}:two,steps=9") == TrainConfig(seed=2, steps=9)
    with pytest.raises(ConfigError, match=r"config\.steps must be int, got 'many'"):
        training.load_config(f"{file}:steps=many")
    with pytest.raises(ConfigError, match=r"d\.py' is not a file; did you mean .*/c\.py\?"):
        training.load_config(f"{tmp_path}/d.py")
    with pytest.raises(ConfigError, match=r"elsewhere\.py' is not a file\.$"):
        training.load_config(f"{tmp_path}/elsewhere.py")
    file.write_text("x = 1\n")
    with pytest.raises(ConfigError, match="gives a TrainConfig"):
        training.load_config(str(file))


def test_every_field_is_checked():
    """A field of a new type must be taught to validate: the default config passes it."""
    training.validate(TrainConfig())
    for field in dataclasses.fields(TrainConfig):
        with pytest.raises(ConfigError, match=field.name):
            training.validate(training.override(TrainConfig(), {field.name: None}))
