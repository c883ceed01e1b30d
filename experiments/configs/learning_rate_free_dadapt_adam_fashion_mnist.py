"""D-Adapt Adam on Fashion-MNIST, with no rate to tune.

    python -m experiments.train \\
        --config=experiments/configs/learning_rate_free_dadapt_adam_fashion_mnist.py

Expected: a test loss of 0.470, 83.2 % of the images (seed 0). About ten seconds of processor time.
"""

from experiments.tasks import fashion_mnist

get_config = fashion_mnist("dadapt_adam", 1.0)
