"""The tasks on which RESULTS.md compares methods: a config is one of them and an optimizer.

Each function gives the ``get_config`` of a config file. Its variants ``adamw`` and ``sgd`` put the
baselines in the method's place, ``smoke`` trains a little on data that need no file.
"""

from collections.abc import Callable, Mapping
from typing import Any

from optlab.training import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    apply_variant,
    override,
)

Changes = Mapping[str, Any]
Variants = Mapping[str, Changes]

_BASELINES = {
    "adamw": {
        "optimizer.name": "adamw",
        "optimizer.learning_rate": 3e-3,
        "optimizer.arguments": {"weight_decay": 0.0},
    },
    "sgd": {
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 0.1,
        "optimizer.arguments": {"momentum": 0.9},
    },
}
_SMOKE = {"steps": 4, "log_every": 2, "eval_every": 4, "optimizer.warmup_steps": 1}


def fashion_mnist(
    name: str,
    learning_rate: float,
    changes: Changes | None = None,
    variants: Variants | None = None,
    /,
    **arguments: Any,
) -> Callable[[str], TrainConfig]:
    """An MLP of 118,282 parameters on Fashion-MNIST: 400 steps of 128 images, not quite an epoch.

    Args:
        name: of the optimizer.
        learning_rate: its peak; it falls to zero linearly.
        changes: of other fields, by dotted path.
        variants: further ones by name, or further changes of those that there are.
        **arguments: of the optimizer.
    """
    config = TrainConfig(
        steps=400,
        batch_size=128,
        log_every=50,
        eval_every=400,
        checkpoint_every=400,
        data=DataConfig(name="fashion_mnist"),
        optimizer=OptimizerConfig(
            name=name, learning_rate=learning_rate, schedule="linear", arguments=arguments
        ),
    )
    smoke = {**_SMOKE, "batch_size": 32, "data.name": "digits", "model.widths": (16,)}
    return _get_config(override(config, changes or {}), smoke, variants or {})


def tinyshakespeare(
    name: str,
    learning_rate: float,
    changes: Changes | None = None,
    variants: Variants | None = None,
    /,
    **arguments: Any,
) -> Callable[[str], TrainConfig]:
    """A GPT of 112,512 parameters on tinyshakespeare: 250 steps of 16 pieces of 64 characters.

    Args:
        name: of the optimizer.
        learning_rate: its peak, after 25 steps; it falls to zero as a cosine.
        changes: of other fields, by dotted path.
        variants: further ones by name, or further changes of those that there are.
        **arguments: of the optimizer.
    """
    config = TrainConfig(
        steps=250,
        batch_size=16,
        log_every=50,
        eval_every=250,
        checkpoint_every=250,
        data=DataConfig(name="tinyshakespeare", length=64),
        model=ModelConfig(name="gpt", width=64, depth=2, heads=4),
        optimizer=OptimizerConfig(
            name=name, learning_rate=learning_rate, warmup_steps=25, arguments=arguments
        ),
    )
    smoke = {**_SMOKE, "data.name": "counting", "model.depth": 1, "model.width": 16}
    return _get_config(override(config, changes or {}), smoke, variants or {})


def _get_config(
    config: TrainConfig, smoke: Changes, variants: Variants
) -> Callable[[str], TrainConfig]:
    known: dict[str, Changes] = {**_BASELINES, "smoke": smoke}
    for name, changes in variants.items():
        known[name] = {**known.get(name, {}), **changes}

    def get_config(variant: str = "") -> TrainConfig:
        """Gives the config; ``variant`` is names of variants and ``field=value`` pairs."""
        return apply_variant(config, variant, known)

    return get_config
