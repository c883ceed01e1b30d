"""AdamW with moments of eight bits on tinyshakespeare: a character GPT of 325,920 parameters.

    python -m experiments.train --config=experiments/configs/quantized_adamw8bit_tinyshakespeare.py

Expected: 3.62 bits a character of the held-out tenth (seed 0), as with float32 moments, which
``optimizer.arguments.codec=None`` gives. About 15 s of processor time.

Variant stable embeds tokens stably and keeps the moments of that embedding in float32.
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
        "optimizer.arguments.min_size": 1,
    },
    "stable": {
        "model.stable_embedding": True,
        "optimizer.arguments.where": "^(?!.*embed)",
    },
}


def get_config(variant: str = "") -> TrainConfig:
    """Gives the config; ``variant`` is names of variants and ``field=value`` pairs."""
    config = TrainConfig(
        steps=300,
        batch_size=8,
        log_every=20,
        eval_every=300,
        checkpoint_every=300,
        data=DataConfig(name="tinyshakespeare", length=64),
        model=ModelConfig(name="gpt", width=112, depth=2, heads=4),
        optimizer=OptimizerConfig(
            name="adamw8bit",
            learning_rate=3e-3,
            warmup_steps=30,
            arguments={"codec": "power8", "weight_decay": 0.03},
        ),
    )
    return apply_variant(config, variant, VARIANTS)
