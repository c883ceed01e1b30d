"""AdamW on Fashion-MNIST: a small ViT of 104,970 parameters, or Lion (variant lion).

    python -m experiments.train --config=experiments/configs/fashion_mnist_vit.py

Expected: 85.9 % of the 10,000 test images with either (seed 0). About 50 s of processor time, two
minutes on two busy CPU cores.

Variant tiny, of 27,914 parameters, is for the sweeps of RESULTS.md, at batch 64 or 512 (variant
large_batch); smoke trains it on the bundled digits.
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
        "model.patch": 4,
        "model.depth": 1,
        "model.width": 16,
        "optimizer.warmup_steps": 2,
    },
    "lion": {
        "optimizer.name": "optax.lion",
        "optimizer.learning_rate": 1e-3,
        "optimizer.arguments.weight_decay": 0.3,
    },
    "tiny": {
        "steps": 1600,
        "batch_size": 64,
        "log_every": 200,
        "eval_every": 1600,
        "checkpoint_every": 400,
        "model.width": 32,
        "optimizer.warmup_steps": 80,
    },
    "large_batch": {
        "steps": 200,
        "batch_size": 512,
        "log_every": 25,
        "eval_every": 200,
        "checkpoint_every": 50,
        "optimizer.warmup_steps": 10,
    },
}


def get_config(variant: str = "") -> TrainConfig:
    """Gives the config; ``variant`` is names of variants and ``field=value`` pairs."""
    config = TrainConfig(
        steps=3000,
        batch_size=64,
        log_every=100,
        eval_every=500,
        checkpoint_every=500,
        data=DataConfig(name="fashion_mnist"),
        model=ModelConfig(name="vit", patch=7, width=64, depth=2, heads=4),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=3e-3,
            warmup_steps=150,
            arguments={"weight_decay": 0.03},
        ),
    )
    return apply_variant(config, variant, VARIANTS)
