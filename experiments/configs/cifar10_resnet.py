"""SGD with momentum on a fifth of CIFAR-10: a ResNet-8 of 75,290 parameters.

    python -m experiments.train --config=experiments/configs/cifar10_resnet.py

Learns from the first of the five batches, 10,000 images neither shifted nor mirrored.
Expected: 48.3 % of the 10,000 test images after 300 steps (seed 0). Less than four minutes on two
busy CPU cores.

Variant full, which was not run here: He et al.'s ResNet-20 of 0.27 million parameters on all five
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
