"""M-FAC on Fashion-MNIST: an inverse Fisher matrix of 64 gradients.

    python -m experiments.train --config=experiments/configs/curvature_m_fac_fashion_mnist.py

Expected: a test loss of 0.401, 85.9 % of the images (seed 0). About ten seconds of processor time.
"""

from experiments.tasks import fashion_mnist

get_config = fashion_mnist("m_fac", 0.01, history=64, damping=1e-3, b1=0.9)
