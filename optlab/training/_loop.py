"""The training loop, which goes on bit for bit after any interruption."""

import contextlib
import functools
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from optlab.training._checkpoint import Checkpoints
from optlab.training._config import ConfigError, TrainConfig, validate
from optlab.training._metrics import Metrics
from optlab.training._profile import profiled
from optlab.training._program import Carry, Program, compile_program
from optlab.training._registry import make_optimizer, make_schedule
from optlab.training._report import write_report
from optlab.training._result import Result, recorded_result, summary
from optlab.training._signals import Stop, noting_signals
from optlab.training._state import state_bytes_per_parameter
from optlab.training._tasks import Task
from optlab.training._workdir import Workdir
from optlab.training.data import Dataset, Examples, Windows, epoch_order, load_data
from optlab.transforms.quantized import check_codecs

__all__ = ["Due", "diverged_at", "figures", "load_examples", "train"]


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
    began = time.perf_counter()
    validate(config)
    folder = Workdir(workdir, config)
    if (result := recorded_result(folder, "done")) is not None:
        return result
    folder.check_writable()
    tx = make_optimizer(
        config.optimizer.name,
        make_schedule(config.optimizer, config.steps),
        **config.optimizer.arguments,
    )
    with noting_signals() as stop, folder.lock():
        data = load_examples(config)
        program = compile_program(config, tx, data)
        checkpoints = Checkpoints(folder.path / "checkpoints")
        start = _start(folder, checkpoints, program.carry)
        # Up to here nothing was written.
        folder.write("config.json", folder.config)
        write_manifest = functools.partial(
            folder.write_manifest,
            resumed_at=start.resumed_at,
            damaged_checkpoints=start.damaged_checkpoints,
        )
        write_manifest("running", start.seconds, result={})
        metrics = Metrics(folder.path, start.step, config.steps, on_record)
        save = functools.partial(checkpoints.save, config=folder.config)
        profiling = profiled(
            program.step, config.profile_steps, start.step, folder.path / "profile"
        )
        with contextlib.closing(metrics), profiling as run_step:
            program = program._replace(step=run_step)
            step, carry, diverged = _advance(
                config, program, data.train, start.step, start.carry, stop, metrics, save
            )
        result = summary(
            config,
            folder.path,
            metrics.records,
            program.task,
            carry.state.params,
            step=step,
            signum=stop.signum if step < config.steps and not diverged else 0,
            diverged_at=diverged,
            resumed_at=tuple(start.resumed_at),
            state_bytes_per_parameter=state_bytes_per_parameter(carry.state),
            seconds=start.seconds + time.perf_counter() - began,
        )
        if result.status == "done" and jax.process_index() == 0:
            write_report(config, result, folder.path)  # before the manifest: "done" means all of it
        write_manifest(result.status, result.seconds, result=result.figures)
    return result


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


class _Start(NamedTuple):
    """Where a process takes a run up, and what the ones before it recorded."""

    step: int
    carry: Carry
    seconds: float
    resumed_at: list[int]
    damaged_checkpoints: list[dict[str, Any]]


def _start(folder: Workdir, checkpoints: Checkpoints, carry: Carry) -> _Start:
    """Gives the newest sound checkpoint, or the carry of step 0 if there is none."""
    manifest, step = folder.read("manifest.json"), 0
    resumed_at = manifest.get("resumed_at", [])
    if (latest := checkpoints.latest()) is not None:
        folder.check_same(checkpoints.config(latest))
        restored = checkpoints.restore(latest, carry)
        try:
            check_codecs(restored, carry)
        except ValueError as error:
            raise ConfigError(f"checkpoint {latest} is of another optimizer: {error}") from error
        step, carry = latest, restored
        resumed_at = [*resumed_at, step]
    damaged = manifest.get("damaged_checkpoints", []) + [
        {"step": step, "problem": problem} for step, problem in checkpoints.damaged.items()
    ]
    return _Start(step, carry, manifest.get("seconds", 0.0), resumed_at, damaged)


class Due(NamedTuple):
    """What is to be done after a step."""

    log: bool
    evaluate: bool
    checkpoint: bool

    @classmethod
    def after(cls, config: TrainConfig, step: int) -> "Due":
        """Tells what a config wants after so many steps."""
        every = config.log_every, config.eval_every, config.checkpoint_every
        return cls(*(step == config.steps or step % n == 0 for n in every))


def _advance(
    config: TrainConfig,
    program: Program,
    train: Examples | Windows,
    step: int,
    carry: Carry,
    stop: Stop,
    metrics: Metrics,
    save: Callable[[int, Carry], None],
) -> tuple[int, Carry, int]:
    """Steps to the end, a signal or a loss to stop at; logs, evaluates and saves where it is due.

    Returns:
        The step of the last checkpoint, the last carry, and the step that diverged, 0 if none did.
    """
    examples = len(train[0])
    rows, order, saved, diverged = examples // config.batch_size, None, step, 0
    unit = "tokens_per_second" if train.targets.ndim > 1 else "examples_per_second"
    units = config.batch_size * train.targets[0].size

    mark, marked = time.perf_counter(), step
    while step < config.steps and not stop.signum:
        epoch, row = divmod(step, rows)
        if order is None or row == 0:
            order = program.place(epoch_order(config.seed, epoch, examples, config.batch_size))
        due = Due.after(config, step + 1)
        before = program.copy(carry.state.params) if any(due) else None
        carry = program.step(carry, order)
        step += 1
        if not any(due):
            continue
        jax.block_until_ready(carry)
        stop.agree()
        speed = (step - marked) / (time.perf_counter() - mark)
        means, health = program.read(carry, before)
        if diverged := diverged_at(config, step, health):
            break
        tested = jax.tree.map(float, program.evaluate(carry)) if due.evaluate else None
        if due.log or due.evaluate:
            record = figures(config, program.task, step, means if due.log else None, health, tested)
            speeds = {"steps_per_second": speed, unit: units * speed}
            metrics.write({"step": step, **record, **speeds})
        if due.checkpoint:  # after the log line, which a resumed run then still has
            save(step, carry)
            saved = step
        mark, marked = time.perf_counter(), step
    if step > saved and not diverged:
        _, health = program.read(carry, carry.state.params)
        diverged = diverged_at(config, step, health)
        if not diverged:
            save(step, carry)
            saved = step
    return saved, carry, diverged


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
