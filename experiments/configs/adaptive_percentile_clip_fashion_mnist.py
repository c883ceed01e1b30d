"""AdamW behind percentile clipping on Fashion-MNIST.

    python -m experiments.train \\
        --config=experiments/configs/adaptive_percentile_clip_fashion_mnist.py

Expected: a test loss of 0.420, 85.0 % of the images (seed 0). About ten seconds of processor time.
"""

from experiments.tasks import fashion_mnist

get_config = fashion_mnist(
    "experiments.optimizers:clipped", 3e-3, base="adamw", percentile=5.0, weight_decay=0.0
)
