"""AdamW behind percentile clipping on Fashion-MNIST.

    python -m experiments.train \\
        --config=experiments/configs/adaptive_percentile_clip_fashion_mnist.py

Expected: a test loss of 0.420, 85.0 % of the images (seed 0). About ten seconds of processor time.

Variant ``spiked`` has the spikes of adaptive_spam_fashion_mnist.py before the clip.
"""

from experiments.tasks import fashion_mnist

_CLIPPED = {"base": "adamw", "percentile": 5.0, "weight_decay": 0.0}

get_config = fashion_mnist(
    "experiments.optimizers:clipped",
    3e-3,
    {},
    {
        "spiked": {
            "optimizer.name": "experiments.spikes:spiked",
            "optimizer.arguments": {
                "optimizer": "experiments.optimizers:clipped",
                "spike": 1000.0,
                "chance": 0.2,
                **_CLIPPED,
            },
        }
    },
    **_CLIPPED,
)
