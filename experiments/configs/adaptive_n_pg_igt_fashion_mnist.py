"""N-PG-IGT on Fashion-MNIST: gradients at a look-ahead point.

    python -m experiments.train --config=experiments/configs/adaptive_n_pg_igt_fashion_mnist.py

Expected: a test loss of 0.464, 83.1 % of the images (seed 0). About ten seconds of processor time.
"""

from experiments.tasks import fashion_mnist

get_config = fashion_mnist("n_pg_igt", 0.1)
