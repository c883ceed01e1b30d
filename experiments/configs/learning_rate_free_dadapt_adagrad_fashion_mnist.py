"""D-Adapt AdaGrad on Fashion-MNIST, with no rate to tune.

    python -m experiments.train \\
        --config=experiments/configs/learning_rate_free_dadapt_adagrad_fashion_mnist.py

Expected: a test loss of 0.605, 80.8 % of the images (seed 0). About ten seconds of processor time.
"""

from experiments.tasks import fashion_mnist

get_config = fashion_mnist("dadapt_adagrad", 1.0, momentum=0.9)
