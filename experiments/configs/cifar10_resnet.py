"""SGD with momentum on a fifth of CIFAR-10: a ResNet-8 of 78,000 parameters.

    python -m experiments.train --config=experiments/configs/cifar10_resnet.py

Learns from the first of the five batches, 10,000 images neither shifted nor mirrored.

Variant lion: Lion. Variant full: He et al.'s ResNet-20 of 0.27 million parameters on all five
batches for 20,000 steps, hours on two CPU cores; without their shifted and mirrored images, the
paper's 91.25 % are out of reach. Variant smoke trains a smaller net on the bundled digits.
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
        "model.depth": 1,
        "model.width": 4,
        "optimizer.warmup_steps": 2,
    },
    "lion": {
        "optimizer.name": "optax.lion",
        "optimizer.learning_rate": 1e-3,
        "optimizer.arguments": {"weight_decay": 0.3},
    },
    "full": {
        "steps": 20_000,
        "batch_size": 128,
        "log_every": 100,
        "eval_every": 1000,
        "checkpoint_every": 1000,
        "data.name": "cifar10",
        "model.depth": 3,
        "optimizer.warmup_steps": 400,
    },
}


def get_config(variant: str = "") -> TrainConfig:
    """Gives the config; ``variant`` is names of variants and ``field=value`` pairs."""
    config = TrainConfig(
        steps=300,
        batch_size=64,
        log_every=50,
        eval_every=150,
        checkpoint_every=100,
        data=DataConfig(name="cifar10/batch_1"),
        model=ModelConfig(name="resnet", width=16, depth=1),
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=0.1,
            warmup_steps=15,
            arguments={"momentum": 0.9},
        ),
    )
    return apply_variant(config, variant, VARIANTS)
