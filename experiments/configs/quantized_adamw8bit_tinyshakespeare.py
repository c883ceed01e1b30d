"""AdamW with moments of eight bits on tinyshakespeare: a character GPT of 325,920 parameters.

    python -m experiments.train --config=experiments/configs/quantized_adamw8bit_tinyshakespeare.py

Expected: 3.62 bits a character of the held-out tenth (seed 0), as with float32 moments, which
``optimizer.arguments.codec=None`` gives. About 15 s of processor time.

Variant stable embeds tokens stably and keeps the moments of that embedding in float32.
"""

from experiments.tasks import tinyshakespeare

get_config = tinyshakespeare(
    "adamw8bit",
    3e-3,
    {
        "steps": 300,
        "batch_size": 8,
        "log_every": 20,
        "eval_every": 300,
        "checkpoint_every": 300,
        "model.width": 112,
        "optimizer.warmup_steps": 30,
    },
    {
        "smoke": {"optimizer.arguments.min_size": 1},
        "stable": {"model.stable_embedding": True, "optimizer.arguments.where": "^(?!.*embed)"},
    },
    codec="power8",
    weight_decay=0.03,
)
