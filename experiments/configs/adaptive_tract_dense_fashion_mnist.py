"""TrAct on Fashion-MNIST: momentum, with TrAct's gradient in the first layer.

    python -m experiments.train --config=experiments/configs/adaptive_tract_dense_fashion_mnist.py

Expected: a test loss of 0.369, 87.1 % of the images (seed 0). About ten seconds of processor time.

``model.layers=plain`` has the ordinary gradient.
"""

from experiments.tasks import fashion_mnist

get_config = fashion_mnist("sgd", 0.1, {"model.layers": "tract"}, momentum=0.9)
