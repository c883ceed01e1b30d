"""The training loop, which goes on bit for bit after any interruption."""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax

from optlab.training._config import ConfigError, TrainConfig, validate
from optlab.training._program import Carry, Program, compile_program
from optlab.training._registry import configured_optimizer
from optlab.training._report import training_rows, write_report
from optlab.training._result import Result, recorded_result, summary
from optlab.training._run import Due, run
from optlab.training._state import state_bytes_per_parameter
from optlab.training._tasks import Task
from optlab.training._workdir import Workdir
from optlab.training.data import Dataset, Examples, Windows, epoch_order, load_data

__all__ = ["diverged_at", "figures", "load_examples", "train"]


def train(
    config: TrainConfig,
    workdir: str | os.PathLike,
    *,
    on_record: Callable[[dict[str, Any]], None] | None = None,
) -> Result:
    """Trains a model, or goes on from where an earlier process of the same run was stopped.

    SIGTERM and SIGINT let the current step finish and save a checkpoint; a second one kills. Of
    several processes (``jax.distributed``) each calls this; one that is signalled stops them all
    where the next log line, evaluation or checkpoint is due. The first one writes.
    However a run was interrupted, it ends in the very bits that it would have had. A finished run
    is only read. A damaged checkpoint gives way to the one before it, which a warning tells.

    Args:
        config: of the run.
        workdir: gets ``config.json``, ``manifest.json``, ``metrics.jsonl``, ``tb/``,
            ``checkpoints/``, ``profile/``, ``report.md`` and ``curves.png``.
        on_record: called with each line of ``metrics.jsonl`` as it is written, to plot it, say.

    Returns:
        Its figures.

    Raises:
        ConfigError: if the config is wrong or the workdir cannot be used, be it that another
            process uses it; nothing is written then.
        StorageError: if the disk is full, say; what was saved before is intact.

    >>> import tempfile
    >>> result = train(TrainConfig(steps=3), tempfile.mkdtemp())
    >>> result.step, result.signum
    (3, 0)
    """
    validate(config)
    folder = Workdir(workdir, config)
    if (result := recorded_result(folder, "done")) is not None:
        return result
    # Its mistakes come before those of the folder.
    tx = configured_optimizer(config.optimizer, config.steps)

    def prepare():
        data = load_examples(config)
        return _Training(config, compile_program(config, tx, data), data.train)

    return run(config, folder, prepare, on_record=on_record, profile_steps=config.profile_steps)


def load_examples(config: TrainConfig) -> Dataset:
    """Loads the data of a run.

    Raises:
        ConfigError: if it cannot be had, or has too few examples for a batch.
    """
    data = load_data(config.data)
    examples = len(data.train[0])
    if config.batch_size > examples:
        raise ConfigError(
            f"config.batch_size must not exceed the {examples} examples of "
            f"{config.data.name}, got {config.batch_size}."
        )
    return data


class _Training:
    """A :class:`Course` of updates by one optimizer."""

    stride = 1

    def __init__(self, config: TrainConfig, program: Program, train: Examples | Windows):
        self._config, self._program = config, program
        self._examples = len(train[0])
        self._order = self._before = None
        self.carry = program.carry
        unit = "tokens_per_second" if train.targets.ndim > 1 else "examples_per_second"
        self.units = {unit: config.batch_size * train.targets[0].size}

    def advance(self, carry: Carry, step: int, looked_at: bool) -> Carry:
        size, program = self._config.batch_size, self._program
        epoch, row = divmod(step, self._examples // size)
        if self._order is None or row == 0:
            order = epoch_order(self._config.seed, epoch, self._examples, size)
            self._order = program.place(order)
        self._before = program.copy(carry.state.params) if looked_at else None
        return program.step(carry, self._order)

    def look(self, carry: Carry, step: int, due: Due) -> tuple[dict[str, Any], int]:
        config, program = self._config, self._program
        before = carry.state.params if self._before is None else self._before
        means, health = program.read(carry, before)
        if diverged := diverged_at(config, step, health):
            return {}, diverged
        tested = jax.tree.map(float, program.evaluate(carry)) if due.evaluate else None
        return figures(config, program.task, step, means if due.log else None, health, tested), 0

    def conclude(self, carry, records, facts) -> Result:
        return summary(
            self._config,
            facts["workdir"],
            records,
            self._program.task,
            carry.state.params,
            state_bytes_per_parameter=state_bytes_per_parameter(carry.state),
            **{name: fact for name, fact in facts.items() if name != "workdir"},
        )

    def report(self, result: Result) -> None:
        write_report(result, training_rows(result))


def figures(
    config: TrainConfig,
    task: Task,
    step: int,
    means: Mapping[str, float] | None,
    health: Mapping[str, float],
    tested: Mapping[str, float] | None,
) -> dict[str, Any]:
    """Gives what a line tells of a run after so many steps.

    Args:
        config: of the run.
        task: derives the figures to report.
        step: the last one.
        means, health: see :class:`Program`; means of None leave both out.
        tested: means over the held-out examples, None where they were not looked at.

    Returns:
        The figures by name.
    """
    told = {}
    if means is not None:
        told |= {f"train_{name}": value for name, value in task.derive(means).items()} | health
        counted = told.pop("counted")
        if config.on_nonfinite == "skip":
            told["skipped"] = _steps_since_log(config, step) - int(counted)
    if tested is not None:
        told |= {f"test_{name}": value for name, value in task.derive(tested).items()}
    return told


def _steps_since_log(config: TrainConfig, step: int) -> int:
    return (step - 1) % config.log_every + 1


def diverged_at(config: TrainConfig, step: int, health: Mapping[str, float]) -> int:
    """Gives the step at which a run that has come to ``step`` went wrong, 0 if it is sound."""
    if config.on_nonfinite == "ignore":
        return 0
    uncounted = _steps_since_log(config, step) - int(health["counted"])
    if config.on_nonfinite == "stop" and uncounted:
        return step - uncounted + 1
    return 0 if math.isfinite(health["parameter_norm"]) else step  # by the optimizer's doing
