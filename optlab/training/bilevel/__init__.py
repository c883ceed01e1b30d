"""Bilevel runs: a problem, a solver and their optimizers from a config, by name."""

from optlab.training.bilevel._cleaning import cleaning_task
from optlab.training.bilevel._config import BilevelConfig, PartConfig
from optlab.training.bilevel._decay import decay_task
from optlab.training.bilevel._few_shot import few_shot_task
from optlab.training.bilevel._representation import representation_task
from optlab.training.bilevel._self_tuning import self_tuning_task
from optlab.training.bilevel._solve import BilevelResult, solve
from optlab.training.bilevel._solvers import make_solver, solvers
from optlab.training.bilevel._task import BilevelTask, make_task, register_problem

__all__ = [
    "BilevelConfig",
    "BilevelResult",
    "BilevelTask",
    "PartConfig",
    "make_solver",
    "make_task",
    "register_problem",
    "solve",
    "solvers",
]

register_problem("few_shot", few_shot_task)
register_problem("hyper_cleaning", cleaning_task)
register_problem("hyper_representation", representation_task)
register_problem("parameter_decay", decay_task)
register_problem("self_tuning", self_tuning_task)
