"""Test problems whose optima are known in closed form, and applications for any model."""

from optlab.problems._bilevel import RidgeBilevel, ridge_bilevel
from optlab.problems._few_shot import few_shot
from optlab.problems._hyper_cleaning import (
    CleaningScores,
    cleaning_scores,
    corrupt_labels,
    hyper_cleaning,
)
from optlab.problems._hyper_representation import hyper_representation
from optlab.problems._hypergradient import (
    HYPERGRADIENT_PROBLEMS,
    HypergradientProblem,
    hypergradient_problem,
)
from optlab.problems._quadratic_bilevel import QuadraticBilevel, quadratic_bilevel
from optlab.problems._smooth import Problem, distance, quadratic, rosenbrock
from optlab.problems._weight_decay import parameter_decay

__all__ = [
    "HYPERGRADIENT_PROBLEMS",
    "CleaningScores",
    "HypergradientProblem",
    "Problem",
    "QuadraticBilevel",
    "RidgeBilevel",
    "cleaning_scores",
    "corrupt_labels",
    "distance",
    "few_shot",
    "hyper_cleaning",
    "hyper_representation",
    "hypergradient_problem",
    "parameter_decay",
    "quadratic",
    "quadratic_bilevel",
    "ridge_bilevel",
    "rosenbrock",
]
