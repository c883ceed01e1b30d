"""D-Adapt Lion on Fashion-MNIST, with no rate to tune.

    python -m experiments.train \\
        --config=experiments/configs/learning_rate_free_dadapt_lion_fashion_mnist.py

Expected: a test loss of 0.924, 69.7 % of the images (seed 0). About ten seconds of processor time.

Without its bound on the growth of the estimate it diverges.
"""

from experiments.tasks import fashion_mnist

get_config = fashion_mnist("dadapt_lion", 1.0, growth_rate=1.02)
