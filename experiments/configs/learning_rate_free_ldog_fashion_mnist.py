"""L-DoG on Fashion-MNIST, judged by the average of its iterates.

    python -m experiments.train \\
        --config=experiments/configs/learning_rate_free_ldog_fashion_mnist.py

Expected: a test loss of 0.480, 82.9 % of the images (seed 0). About ten seconds of processor time.
"""

from experiments.tasks import fashion_mnist

get_config = fashion_mnist(
    "experiments.optimizers:averaged",
    1.0,
    {"optimizer.schedule": "constant", "evaluate": "average"},
    base="ldog",
)
