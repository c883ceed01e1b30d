"""AdamW on tinyshakespeare: a character GPT of 421,632 parameters, or Lion (variant lion).

    python -m experiments.train --config=experiments/configs/tinyshakespeare_gpt.py

Expected: 2.79 bits a character of the held-out tenth with AdamW, 3.12 with Lion, the best of three
rates (seed 0). About a minute of processor time, three on two busy CPU cores.

Variant tiny, of 112,512 parameters, is for the sweeps of RESULTS.md; smoke trains on the numbers
from 1 on, a text that needs no file.
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
        "batch_size": 8,
        "log_every": 5,
        "eval_every": 10,
        "checkpoint_every": 10,
        "data.name": "counting",
        "data.length": 32,
        "model.depth": 1,
        "model.width": 16,
        "optimizer.warmup_steps": 2,
    },
    "lion": {
        "optimizer.name": "optax.lion",
        "optimizer.learning_rate": 2e-4,
        "optimizer.arguments": {"b1": 0.95, "b2": 0.98, "weight_decay": 0.3},
    },
    "tiny": {
        "steps": 600,
        "eval_every": 600,
        "checkpoint_every": 100,
        "model.width": 64,
        "optimizer.warmup_steps": 30,
    },
}


def get_config(variant: str = "") -> TrainConfig:
    """Gives the config; ``variant`` is names of variants and ``field=value`` pairs."""
    config = TrainConfig(
        steps=1000,
        batch_size=16,
        log_every=50,
        eval_every=250,
        checkpoint_every=500,
        data=DataConfig(name="tinyshakespeare", length=64),
        model=ModelConfig(name="gpt", width=128, depth=2, heads=4),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=3e-3,
            warmup_steps=50,
            arguments={"b2": 0.99, "weight_decay": 0.03},
        ),
    )
    return apply_variant(config, variant, VARIANTS)
