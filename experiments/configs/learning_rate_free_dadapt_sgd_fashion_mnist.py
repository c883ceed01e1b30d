"""D-Adapt SGD on Fashion-MNIST, with no rate to tune.

    python -m experiments.train \\
        --config=experiments/configs/learning_rate_free_dadapt_sgd_fashion_mnist.py

Expected: a test loss of 0.608, 75.1 % of the images (seed 0). About ten seconds of processor time.
"""

from experiments.tasks import fashion_mnist

get_config = fashion_mnist("dadapt_sgd", 1.0, momentum=0.9)
