"""GaLore on tinyshakespeare: hidden matrices in 16 of 64 directions.

    python -m experiments.train --config=experiments/configs/low_rank_galore_tinyshakespeare.py

Expected: 2.523 nats a character (seed 0). About a quarter of a minute of processor time.
"""

from experiments.tasks import tinyshakespeare

get_config = tinyshakespeare(
    "experiments.optimizers:on_matrices",
    3e-3,
    base="galore",
    factor=1.0,
    rank=16,
    update_interval=50,
    scale=1.0,
)
