"""Hybrid AuON on tinyshakespeare: hidden matrices, AdamW elsewhere.

    python -m experiments.train --config=experiments/configs/matrix_hybrid_auon_tinyshakespeare.py

Expected: 2.340 nats a character (seed 0). About a quarter of a minute of processor time.
"""

from experiments.tasks import tinyshakespeare

get_config = tinyshakespeare(
    "experiments.optimizers:on_matrices", 3e-3, base="hybrid_auon", factor=10.0
)
