"""Momentum at a constant rate on Fashion-MNIST, judged by its average.

    python -m experiments.train \\
        --config=experiments/configs/learning_rate_free_polynomial_averaging_fashion_mnist.py

Expected: a test loss of 0.413, 85.0 % of the images (seed 0). About ten seconds of processor time.

``evaluate=last`` judges the last iterate, and ``optimizer.schedule=linear`` lets the rate fall
instead.
"""

from experiments.tasks import fashion_mnist

get_config = fashion_mnist(
    "experiments.optimizers:averaged",
    0.1,
    {"optimizer.schedule": "constant", "evaluate": "average"},
    base="sgd",
    momentum=0.9,
)
