"""Bilevel solvers by name, with what their arguments stand for in a config."""

import ast
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import optax

from optlab import bilevel, hypergrad
from optlab.base import BilevelProblem, Solver
from optlab.training._config import ConfigError, OptimizerConfig, nearest
from optlab.training._registry import configured_optimizer, make_schedule, optimizers
from optlab.training.bilevel._config import BilevelConfig

__all__ = ["make_solver", "solvers"]

_NEED_FULL = {"spider", "srba", "vrbo"}  # their differences drift if never taken anew
_PROJECTIONS = {
    "box": lambda lower, upper: functools.partial(
        optax.projections.projection_box, lower=lower, upper=upper
    ),
    "non_negative": lambda: optax.projections.projection_non_negative,
}


def solvers() -> Mapping[str, Callable[..., Solver]]:
    """Gives every bilevel solver that a config can name.

    Returns:
        The factories of :mod:`optlab.bilevel` by name.

    >>> {"soba", "stocbio", "bo_rep"} <= set(solvers())
    True
    """
    public = {name: getattr(bilevel, name) for name in bilevel.__all__}
    return {
        name: factory
        for name, factory in public.items()
        if inspect.isfunction(factory) and inspect.signature(factory).return_annotation is Solver
    }


def make_solver(
    config: BilevelConfig, problem: BilevelProblem, *, outer_batches: int, inner_batches: int
) -> Solver:
    """Builds the solver of a config.

    The optimizers of the levels are those of the config; a solver that takes the outer learning
    rate alone, such as ``bo_rep``, gets that. The rest comes from ``config.solver.arguments``,
    where a text may be a call: of an estimator of :mod:`optlab.hypergrad`, such as
    ``"cg(max_steps=20)"``; of a direction, ``"storm(0.1)"``; of an optimizer, ``"adam(1e-3)"``;
    of a projection, ``"box(0, 1)"`` or ``"non_negative"``.

    Args:
        config: its ``solver`` and optimizers are used.
        problem: to be solved.
        outer_batches, inner_batches: how many there are, for a solver that remembers them all.

    Returns:
        The solver.

    Raises:
        ConfigError: if a name or an argument is unknown, or the factory refuses a value.

    >>> problem = BilevelProblem(lambda x, y, b: (y - 1) ** 2, lambda x, y, b: (y - x) ** 2)
    >>> config = BilevelConfig()
    >>> config.solver.name = "alternating"
    >>> config.solver.arguments = {"estimator": "cg(max_steps=2)", "inner_steps": 3}
    >>> make_solver(config, problem, outer_batches=1, inner_batches=1).step.__name__
    'step'
    """
    name, arguments = config.solver.name, dict(config.solver.arguments)
    if name not in solvers():
        raise ConfigError(f"solver.name {name!r} is unknown; {nearest(name, solvers())}")
    factory = solvers()[name]
    called = {str(text).partition("(")[0] for text in arguments.values()}
    if (needing := _NEED_FULL & {name, *called}) and not config.full_every:
        raise ConfigError(f"config.full_every must be at least 1 for {needing.pop()}, got 0.")
    parameters = inspect.signature(factory).parameters
    known = parameters.keys() - {"outer", "inner"}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for argument, value in arguments.items():
        if argument not in known and not open_ended:
            raise ConfigError(
                f"solver.arguments has {argument!r}, which {name} does not take; "
                f"{nearest(argument, known)}"
            )
        if isinstance(value, str) and (makers := _makers(argument)):
            arguments[argument] = _called(f"solver.arguments.{argument}", value, makers)
    given = {
        "outer_batches": lambda: outer_batches,
        "inner_batches": lambda: inner_batches,
        "learning_rate": lambda: _only_rate(config, name),
    } | {
        f"{level}_optimizer": functools.partial(_optimizer, config, f"{level}_optimizer")
        for level in ("outer", "inner", "linear")
    }
    arguments = {k: make() for k, make in given.items() if k in known} | arguments
    needed = {k for k in known if parameters[k].default is inspect.Parameter.empty}
    needed -= {k for k in known if parameters[k].kind is inspect.Parameter.VAR_KEYWORD}
    if missing := needed - arguments.keys():
        raise ConfigError(f"solver.arguments lacks {', '.join(sorted(missing))} of {name}.")
    try:
        return factory(problem.outer, problem.inner, **arguments)
    except (TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"solver.arguments do not suit {name}: {text}") from error


def _optimizer(config: BilevelConfig, level: str) -> optax.GradientTransformation:
    chosen: OptimizerConfig = getattr(config, level)
    # A step with several inner batches takes an inner step on each.
    updates = max(config.inner_batches_per_step, 1) if level == "inner_optimizer" else 1
    try:
        return configured_optimizer(chosen, config.steps * updates)
    except ConfigError as error:
        raise ConfigError(str(error).replace("optimizer.", f"{level}.", 1)) from error


def _only_rate(config: BilevelConfig, name: str) -> optax.ScalarOrSchedule:
    chosen = config.outer_optimizer
    if chosen.name != "sgd" or chosen.arguments:
        raise ConfigError(
            f"outer_optimizer.name must be 'sgd', without arguments, for {name}: it takes no outer "
            f"optimizer but a learning rate; got {chosen.name!r}."
        )
    return make_schedule(chosen, config.steps)


def _makers(argument: str) -> Mapping[str, Callable]:
    """What a text in a solver's argument may call, by the argument's name."""
    if argument == "estimator":
        return _functions(hypergrad) | dict(optimizers())  # those that it differentiates
    if argument.endswith("direction"):
        return {name: getattr(bilevel, name) for name in ("plain", "saga", "spider", "storm")}
    if argument.startswith("project_"):
        return _PROJECTIONS
    return optimizers() if argument.endswith("optimizer") else {}


def _functions(module: Any) -> dict[str, Callable]:
    return {n: f for n in module.__all__ if inspect.isfunction(f := getattr(module, n))}


def _called(path: str, text: str, makers: Mapping[str, Callable]) -> Any:
    """Makes what a text such as ``"unrolled(sgd(0.1), steps=5)"`` says."""

    def make(node: ast.expr) -> Any:
        if not isinstance(node, ast.Call):
            if isinstance(node, ast.Name | ast.Attribute):
                node = ast.Call(func=node, args=[], keywords=[])
            else:
                return ast.literal_eval(node)
        name = ast.unparse(node.func)
        if name not in makers:
            raise ConfigError(f"{path} calls {name!r}, which is unknown; {nearest(name, makers)}")
        arguments = {str(k.arg): make(k.value) for k in node.keywords}
        return makers[name](*(make(a) for a in node.args), **arguments)

    try:
        return make(ast.parse(text, mode="eval").body)
    except ConfigError:
        raise
    except (SyntaxError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise ConfigError(
            f"{path} must be such as 'cg(max_steps=20)', got {text!r}: {told}"
        ) from error
