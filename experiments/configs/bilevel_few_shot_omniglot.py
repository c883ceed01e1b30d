"""MAML on Omniglot, 5 classes from one drawing each: an MLP on 14x14, or a CNN; iMAML.

    python -m experiments.bilevel --config=experiments/configs/bilevel_few_shot_omniglot.py

Expected: 71.9 % of the queries of 200 tasks of the held-out alphabets (seed 0), by an MLP without
normalisation; imaml 73.5 %, cnn 92.1 %. About 20, 67 and 225 s of processor time. The papers have
98.7 % with a CNN, after ten times the examples and on whole images: see RESULTS.md.

Variants cnn, imaml and fomaml, which combine; smoke draws its tasks from the bundled digits.
"""

from optlab.training import DataConfig, ModelConfig, OptimizerConfig, apply_variant
from optlab.training.bilevel import BilevelConfig, PartConfig

VARIANTS = {
    "smoke": {
        "steps": 4,
        "log_every": 2,
        "eval_every": 4,
        "checkpoint_every": 4,
        "outer_batch_size": 2,
        "data.name": "digits",
        "model.widths": (4,),
        "problem.arguments.rotate": False,
        "problem.arguments.shrink": 1,
        "problem.arguments.test_tasks": 4,
    },
    "cnn": {
        "model": ModelConfig(name="few_shot_cnn", widths=(32, 32, 32, 32)),
        "outer_optimizer.schedule": "cosine",
        "eval_every": 500,
        "checkpoint_every": 500,
        "steps": 12000,
    },
    "fomaml": {"solver.arguments.first_order": True},
    "imaml": {
        "solver": PartConfig(
            name="imaml", arguments={"inner_steps": 16, "linear_steps": 5, "damping": 1.0}
        ),
        "problem.arguments.proximity": 0.1,
        "problem.arguments.adapt_steps": 16,
        "inner_optimizer.learning_rate": 0.1,
        "outer_optimizer.schedule": "cosine",
    },
}


def get_config(variant: str = "") -> BilevelConfig:
    """Gives the config; ``variant`` is names of variants and ``field=value`` pairs."""
    config = BilevelConfig(
        steps=3000,
        log_every=50,
        eval_every=200,
        checkpoint_every=200,
        outer_batch_size=16,
        problem=PartConfig(
            name="few_shot",
            arguments={
                "ways": 5,
                "shots": 1,
                "queries": 3,
                "rotate": True,
                "shrink": 2,
                "adapt_steps": 3,
            },
        ),
        solver=PartConfig(name="maml", arguments={"inner_steps": 1}),
        data=DataConfig(name="omniglot"),
        model=ModelConfig(name="mlp", widths=(128, 64)),
        outer_optimizer=OptimizerConfig(name="adam", learning_rate=3e-3, schedule="constant"),
        inner_optimizer=OptimizerConfig(name="sgd", learning_rate=0.4, schedule="constant"),
    )
    return apply_variant(config, variant, VARIANTS)
