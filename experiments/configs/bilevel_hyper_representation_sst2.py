"""An LSTM's features at the outer level, its head at the inner one, on SST-2: BO-REP.

    python -m experiments.bilevel --config=experiments/configs/bilevel_hyper_representation_sst2.py

Expected: 74.2 % of the 872 held-out sentences after 150 steps; stocbio 74.4 %, soba 70.1 %
(seed 0). About 8 s of processor time, start-up included.

Variants soba and stocbio are the methods that the paper compares with; smoke runs an MLP on the
bundled digits.
"""

from optlab.training import DataConfig, ModelConfig, OptimizerConfig, apply_variant
from optlab.training.bilevel import BilevelConfig, PartConfig

VARIANTS = {
    "smoke": {
        "steps": 10,
        "log_every": 5,
        "eval_every": 10,
        "checkpoint_every": 10,
        "data.name": "digits",
        "model": ModelConfig(name="mlp", widths=(16,)),
        "problem.arguments": {},
    },
    "soba": {
        "solver": PartConfig(name="soba"),
        "outer_optimizer.learning_rate": 100.0,
    },
    "stocbio": {
        "solver": PartConfig(
            name="stocbio", arguments={"inner_steps": 3, "terms": 3, "neumann_step": 0.5}
        ),
        "outer_optimizer.learning_rate": 100.0,
    },
}


def _sgd(learning_rate: float) -> OptimizerConfig:
    return OptimizerConfig(name="sgd", learning_rate=learning_rate, schedule="constant")


def get_config(variant: str = "") -> BilevelConfig:
    """Gives the config; ``variant`` is names of variants and ``field=value`` pairs."""
    config = BilevelConfig(
        steps=150,
        log_every=10,
        eval_every=50,
        checkpoint_every=50,
        outer_batch_size=64,
        inner_batch_size=64,
        problem=PartConfig(
            name="hyper_representation",
            arguments={"train": 8000, "validation": 8000, "penalty": 1e-3},
        ),
        solver=PartConfig(name="bo_rep", arguments={"period": 2, "inner_steps": 3}),
        data=DataConfig(name="sst2"),
        model=ModelConfig(name="lstm", width=32),
        outer_optimizer=_sgd(3.0),
        inner_optimizer=_sgd(0.5),
        linear_optimizer=_sgd(0.5),
    )
    return apply_variant(config, variant, VARIANTS)
