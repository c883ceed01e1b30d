"""AdamW with moments of eight bits on Fashion-MNIST: a CNN of 98,442 parameters.

    python -m experiments.train --config=experiments/configs/quantized_adamw8bit_fashion_mnist.py

Expected: 81.9 % of the 10,000 test images (seed 0), as with float32 moments, which
``optimizer.arguments.codec=None`` gives. About 15 s of processor time.

Variant smoke trains on the bundled digits.
"""

from optlab.training import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    apply_variant,
)

VARIANTS = {
    "smoke": {
        "steps": 10,
        "log_every": 5,
        "eval_every": 10,
        "checkpoint_every": 10,
        "data.name": "digits",
        "model.widths": (8, 16),
        "optimizer.warmup_steps": 2,
        "optimizer.arguments.min_size": 1,
    },
}


def get_config(variant: str = "") -> TrainConfig:
    """Gives the config; ``variant`` is names of variants and ``field=value`` pairs."""
    config = TrainConfig(
        steps=400,
        batch_size=64,
        log_every=50,
        eval_every=400,
        checkpoint_every=400,
        data=DataConfig(name="fashion_mnist"),
        model=ModelConfig(name="cnn", widths=(16, 32, 64, 128)),
        optimizer=OptimizerConfig(
            name="adamw8bit",
            learning_rate=3e-3,
            warmup_steps=40,
            arguments={"codec": "power8", "weight_decay": 0.03},
        ),
    )
    return apply_variant(config, variant, VARIANTS)
