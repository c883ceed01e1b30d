"""MKOR-H on Fashion-MNIST: first-order once the loss is flat.

    python -m experiments.train --config=experiments/configs/curvature_mkor_h_fashion_mnist.py

Expected: a test loss of 0.432, 84.8 % of the images (seed 0). About ten seconds of processor time.
"""

from experiments.tasks import fashion_mnist

get_config = fashion_mnist("mkor_h", 0.03, {"optimizer.statistics": True}, window=50)
