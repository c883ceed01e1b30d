"""N-HARPG on Fashion-MNIST: momentum carried by Hessian-vector products.

    python -m experiments.train --config=experiments/configs/adaptive_n_harpg_fashion_mnist.py

Expected: a test loss of 0.907, 70.9 % of the images (seed 0). About ten seconds of processor time.
"""

from experiments.tasks import fashion_mnist

get_config = fashion_mnist("n_harpg", 0.1)
