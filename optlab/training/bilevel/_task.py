"""Bilevel problems with their data, by name."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from optlab.base import BilevelProblem, PyTree
from optlab.training._config import ConfigError, nearest
from optlab.training.bilevel._config import BilevelConfig

__all__ = ["BilevelTask", "make_task", "register_problem"]


class BilevelTask(NamedTuple):
    """A bilevel problem, the data of both levels, and what a solution is judged by.

    Attributes:
        problem: its objectives.
        init: key -> (x, y), where a run starts.
        outer_data, inner_data: trees of arrays on the host, which reach the compiled step as
            arguments. Their rows lie in random order: a batch is a run of neighbours.
        test: what ``evaluate`` judges by, likewise.
        evaluate: (state of the solver, test) -> figures by name, of shape ``()``. The solvers of
            optlab have the variables in ``state.x`` and ``state.y``.
        finding: what the last figures say, a template for them.
        draw: (key, outer_data, inner_data) -> (outer batch, inner batch), for a problem that draws
            its own; None cuts them from the rows.
        drawn: the figures to draw into the report.
    """

    problem: BilevelProblem
    init: Callable[[jax.Array], tuple[PyTree, PyTree]]
    outer_data: PyTree
    inner_data: PyTree
    test: PyTree
    evaluate: Callable[[PyTree, PyTree], Mapping[str, jax.Array]]
    finding: str
    draw: Callable[[jax.Array, PyTree, PyTree], tuple[PyTree, PyTree]] | None = None
    drawn: tuple[str, ...] = ("test_loss",)


_PROBLEMS: dict[str, Callable[..., BilevelTask]] = {}


def register_problem(name: str, make: Callable[..., BilevelTask]) -> None:
    """Makes a problem known to configs; the file of a config is a good place to call this.

    Args:
        name: for ``config.problem.name``.
        make: ``(config, **arguments) -> BilevelTask``, with ``config.problem.arguments``.

    >>> register_problem("mine", lambda config, *, size=3: None)
    >>> config = BilevelConfig()
    >>> config.problem.name, config.problem.arguments = "mine", {"sise": 4}
    >>> make_task(config)
    Traceback (most recent call last):
    optlab.training._config.ConfigError: problem.arguments has 'sise', which mine does not take;
    did you mean size?
    """
    _PROBLEMS[name] = make


def make_task(config: BilevelConfig) -> BilevelTask:
    """Makes the problem of a config, and loads its data.

    Those that come along are ``few_shot``, ``hyper_cleaning``, ``hyper_representation``,
    ``parameter_decay`` and ``self_tuning``; :func:`register_problem` adds others.

    Args:
        config: its ``problem``, ``data`` and ``model`` are used.

    Returns:
        The task.

    Raises:
        ConfigError: if the name or an argument is unknown, or the data cannot be had.

    >>> make_task(BilevelConfig()).inner_data[0].shape
    (718, 8, 8, 1)
    """
    name, arguments = config.problem.name, config.problem.arguments
    if name not in _PROBLEMS:
        raise ConfigError(f"problem.name {name!r} is unknown; {nearest(name, _PROBLEMS)}")
    make = _PROBLEMS[name]
    known = list(inspect.signature(make).parameters)[1:]
    for argument in arguments:
        if argument not in known:
            raise ConfigError(
                f"problem.arguments has {argument!r}, which {name} does not take; "
                f"{nearest(argument, known)}"
            )
    try:
        return make(config, **arguments)
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        text: Any = " ".join(str(error).split())
        raise ConfigError(
            f"problem.arguments {dict(arguments)} do not suit {name}: {text}"
        ) from error
