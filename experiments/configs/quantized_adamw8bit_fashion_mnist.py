"""AdamW with moments of eight bits on Fashion-MNIST: a CNN of 98,442 parameters.

    python -m experiments.train --config=experiments/configs/quantized_adamw8bit_fashion_mnist.py

Expected: 81.9 % of the 10,000 test images (seed 0), as with float32 moments, which
``optimizer.arguments.codec=None`` gives. About 15 s of processor time.
"""

from experiments.tasks import fashion_mnist

get_config = fashion_mnist(
    "adamw8bit",
    3e-3,
    {
        "batch_size": 64,
        "model.name": "cnn",
        "model.widths": (16, 32, 64, 128),
        "optimizer.schedule": "cosine",
        "optimizer.warmup_steps": 40,
    },
    {"smoke": {"model.widths": (8, 16), "optimizer.arguments.min_size": 1}},
    codec="power8",
    weight_decay=0.03,
)
