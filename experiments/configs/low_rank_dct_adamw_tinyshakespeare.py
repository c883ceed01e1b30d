"""DCT-AdamW on tinyshakespeare: hidden matrices in 16 of 64 cosines.

    python -m experiments.train --config=experiments/configs/low_rank_dct_adamw_tinyshakespeare.py

Expected: 2.482 nats a character (seed 0). About a quarter of a minute of processor time.
"""

from experiments.tasks import tinyshakespeare

get_config = tinyshakespeare(
    "experiments.optimizers:on_matrices",
    3e-3,
    base="dct_adamw",
    factor=1.0,
    rank=16,
)
