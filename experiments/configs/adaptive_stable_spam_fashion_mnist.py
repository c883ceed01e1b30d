"""Stable-SPAM on Fashion-MNIST, under gradients with spikes.

    python -m experiments.train --config=experiments/configs/adaptive_stable_spam_fashion_mnist.py

Expected: a test loss of 0.455, 83.9 % of the images (seed 0). About ten seconds of processor time.

At one step in five, drawn at random, a twentieth of the gradient's entries is multiplied by 1,000;
see adaptive_spam_fashion_mnist.py.
"""

from experiments.tasks import fashion_mnist

get_config = fashion_mnist(
    "experiments.spikes:spiked", 3e-3, optimizer="stable_spam", spike=1000.0, chance=0.2
)
