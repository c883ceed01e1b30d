"""SST on Fashion-MNIST: 16 of up to 128 triplets of each matrix at a time.

    python -m experiments.train \\
        --config=experiments/configs/low_rank_sparse_spectral_fashion_mnist.py

Expected: a test loss of 0.512, 82.2 % of the images (seed 0). About ten seconds of processor time.

Variant ``lora`` trains a product of rank 16 beside each fixed matrix.
"""

from experiments.tasks import fashion_mnist

get_config = fashion_mnist(
    "sparse_spectral",
    3e-3,
    {"model.layers": "spectral"},
    {
        "lora": {
            "model.layers": "plain",
            "optimizer.name": "experiments.lora:lora",
            "optimizer.arguments": {"rank": 16},
        }
    },
    rank=16,
    sample_interval=25,
)
