"""SPAM on Fashion-MNIST, under gradients with spikes.

    python -m experiments.train --config=experiments/configs/adaptive_spam_fashion_mnist.py

Expected: a test loss of 0.412, 85.2 % of the images (seed 0). About ten seconds of processor time.

At one step in five, drawn at random, a twentieth of the gradient's entries is multiplied by 1,000;
``optimizer.arguments.spike=1.0`` leaves them alone. Variant ``spiked_adamw`` has AdamW suffer them.
The intervals are those of a short training: the paper's are 500 steps and 150.
"""

from experiments.tasks import fashion_mnist

_SPIKES = {"spike": 1000.0, "chance": 0.2}

get_config = fashion_mnist(
    "experiments.spikes:spiked",
    3e-3,
    {},
    {
        "spiked_adamw": {
            "optimizer.name": "experiments.spikes:spiked",
            "optimizer.arguments": {"optimizer": "adamw", "weight_decay": 0.0, **_SPIKES},
        }
    },
    optimizer="spam",
    threshold=50.0,
    reset_interval=100,
    warmup_steps=10,
    **_SPIKES,
)
