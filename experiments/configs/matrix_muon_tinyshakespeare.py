"""Muon on tinyshakespeare: hidden matrices, AdamW elsewhere.

    python -m experiments.train --config=experiments/configs/matrix_muon_tinyshakespeare.py

Expected: 2.310 nats a character (seed 0). About a quarter of a minute of processor time.
"""

from experiments.tasks import tinyshakespeare

get_config = tinyshakespeare("experiments.optimizers:on_matrices", 3e-3, base="muon", factor=10.0)
