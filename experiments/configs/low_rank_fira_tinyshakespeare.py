"""Fira on tinyshakespeare: hidden matrices, 16 of 64 directions by Adam.

    python -m experiments.train --config=experiments/configs/low_rank_fira_tinyshakespeare.py

Expected: 2.505 nats a character (seed 0). About a quarter of a minute of processor time.
"""

from experiments.tasks import tinyshakespeare

get_config = tinyshakespeare(
    "experiments.optimizers:on_matrices",
    3e-3,
    base="fira",
    factor=1.0,
    rank=16,
    update_interval=50,
    scale=1.0,
)
