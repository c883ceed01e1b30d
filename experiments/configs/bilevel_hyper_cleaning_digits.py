"""Hyper-cleaning of digits: 1,000 labels, 40 % of them wrong, and 100 right ones; SOBA.

    python -m experiments.bilevel --config=experiments/configs/bilevel_hyper_cleaning_digits.py

Expected: F1 0.92, 93.3 % of the 360 held-out digits, against 87.8 % of variant noisy and 88.6 % of
variant validation (seed 0). About 6 s of processor time, start-up included.

Variants saba, amigo, stocbio, bo_rep and aid are other solvers; with a fixed x, noisy learns from
all noisy labels and validation from the 100 right ones.
"""

from optlab.training import OptimizerConfig, apply_variant
from optlab.training.bilevel import BilevelConfig, PartConfig

FIXED = {
    "solver.name": "alternating",
    "solver.arguments": {"estimator": "identity"},
    "outer_optimizer.learning_rate": 0.0,
}
VARIANTS = {
    "smoke": {"steps": 20, "log_every": 5, "eval_every": 10, "checkpoint_every": 10},
    "saba": {"solver.name": "saba"},
    "amigo": {
        "solver.name": "amigo",
        "solver.arguments": {"inner_steps": 5},
        "outer_optimizer.learning_rate": 1000.0,
        "steps": 2000,
    },
    "stocbio": {
        "solver.name": "stocbio",
        "solver.arguments": {"inner_steps": 5, "terms": 10},
        "outer_optimizer.learning_rate": 300.0,
        "steps": 2000,
    },
    "bo_rep": {"solver.name": "bo_rep", "outer_optimizer.learning_rate": 1.0, "steps": 2000},
    "aid": {
        "solver.name": "alternating",
        "solver.arguments": {"estimator": "cg(max_steps=20)", "inner_steps": 10},
        "outer_optimizer.name": "adam",
        "outer_optimizer.learning_rate": 0.1,
        "inner_batch_size": 0,
        "outer_batch_size": 0,
        "steps": 400,
    },
    "noisy": {**FIXED, "problem.arguments.start": 20.0},
    "validation": {
        **FIXED,
        "problem.arguments.start": 20.0,
        "problem.arguments.learn_from": "validation",
    },
}


def get_config(variant: str = "") -> BilevelConfig:
    """Gives the config; ``variant`` is names of variants and ``field=value`` pairs."""
    config = BilevelConfig(
        steps=4000,
        log_every=100,
        eval_every=200,
        checkpoint_every=1000,
        outer_batch_size=32,
        inner_batch_size=32,
        problem=PartConfig(
            name="hyper_cleaning",
            arguments={"train": 1000, "validation": 100, "corrupted": 0.4, "penalty": 3e-3},
        ),
        solver=PartConfig(name="soba"),
        outer_optimizer=OptimizerConfig(name="sgd", learning_rate=300.0, schedule="constant"),
        inner_optimizer=OptimizerConfig(name="sgd", learning_rate=0.5, schedule="constant"),
        linear_optimizer=OptimizerConfig(name="sgd", learning_rate=0.5, schedule="constant"),
    )
    return apply_variant(config, variant, VARIANTS)
