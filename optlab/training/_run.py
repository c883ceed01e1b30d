"""A run between its folder and its result: it resumes, steps, logs, saves and stops.

What a step computes is a :class:`Course`'s business.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax

from optlab.base import PyTree
from optlab.training._checkpoint import Checkpoints
from optlab.training._config import RunConfig
from optlab.training._extras import check_extras
from optlab.training._metrics import Metrics
from optlab.training._profile import profiled
from optlab.training._result import RunResult
from optlab.training._signals import Stop, noting_signals
from optlab.training._workdir import Workdir

__all__ = ["Course", "Due", "run"]


class Due(NamedTuple):
    """What is to be done after a step."""

    log: bool
    evaluate: bool
    checkpoint: bool

    @classmethod
    def after(cls, config: RunConfig, step: int) -> "Due":
        """Tells what a config wants after so many steps."""
        every = config.log_every, config.eval_every, config.checkpoint_every
        return cls(*(step == config.steps or step % n == 0 for n in every))


class Course(Protocol):
    """What a run computes.

    Attributes:
        carry: what a step hands to the next one and a checkpoint holds, at step 0.
        stride: the steps that one call of ``advance`` takes; whatever is due falls between two.
        units: what a step consumes, by the name of its speed: ``{"examples_per_second": 64}``.
    """

    carry: PyTree
    stride: int
    units: Mapping[str, float]

    def advance(self, carry: PyTree, step: int, looked_at: bool) -> PyTree:
        """Takes the steps after ``step``, and is told whether something is due after them."""
        ...

    def look(self, carry: PyTree, step: int, due: Due) -> tuple[dict[str, Any], int]:
        """Gives the figures that are due, and the step that went wrong, 0 if all is sound."""
        ...

    def conclude(
        self, carry: PyTree, records: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
    ) -> RunResult:
        """Sums up; ``facts`` are fields of the result that the course does not know."""
        ...

    def report(self, result: RunResult) -> None:
        """Writes what a finished run leaves beside its records."""
        ...


def run(
    config: RunConfig,
    folder: Workdir,
    prepare: Callable[[], Course],
    *,
    on_record: Callable[[dict[str, Any]], None] | None = None,
    profile_steps: str = "",
) -> RunResult:
    """Runs to the end, or on from where an earlier process of the same run was stopped.

    Args:
        config: of the run, validated.
        folder: of the run, which is not done.
        prepare: makes the course, once the folder is locked.
        on_record: called with each line of ``metrics.jsonl`` as it is written.
        profile_steps: a window for the profiler; see :func:`optlab.training._profile.profiled`.

    Returns:
        What ``conclude`` gives.

    Raises:
        ConfigError, StorageError: see :func:`optlab.training.train`.
    """
    began = time.perf_counter()
    check_extras()
    folder.check_writable()
    with noting_signals() as stop, folder.lock():
        course = prepare()
        checkpoints = Checkpoints(folder.path / "checkpoints")
        start = _start(folder, checkpoints, course.carry)
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
        profiling = profiled(course.advance, profile_steps, start.step, folder.path / "profile")
        with contextlib.closing(metrics), profiling as advance:
            step, carry, diverged = _steps(config, course, advance, start, stop, metrics, save)
        result = course.conclude(
            carry,
            metrics.records,
            {
                "workdir": folder.path,
                "step": step,
                "signum": stop.signum if step < config.steps and not diverged else 0,
                "diverged_at": diverged,
                "resumed_at": tuple(start.resumed_at),
                "seconds": start.seconds + time.perf_counter() - began,
            },
        )
        if result.status == "done" and jax.process_index() == 0:
            course.report(result)  # before the manifest: "done" means all of it
        write_manifest(result.status, result.seconds, result=result.figures)
    return result


class _Start(NamedTuple):
    """Where a process takes a run up, and what the ones before it recorded."""

    step: int
    carry: PyTree
    seconds: float
    resumed_at: list[int]
    damaged_checkpoints: list[dict[str, Any]]


def _start(folder: Workdir, checkpoints: Checkpoints, carry: PyTree) -> _Start:
    """Gives the newest sound checkpoint, or the carry of step 0 if there is none."""
    manifest, step = folder.read("manifest.json"), 0
    resumed_at = manifest.get("resumed_at", [])
    if (latest := checkpoints.latest()) is not None:
        folder.check_same(checkpoints.config(latest))
        step, carry = latest, checkpoints.restore(latest, carry)
        resumed_at = [*resumed_at, step]
    damaged = manifest.get("damaged_checkpoints", []) + [
        {"step": step, "problem": problem} for step, problem in checkpoints.damaged.items()
    ]
    return _Start(step, carry, manifest.get("seconds", 0.0), resumed_at, damaged)


def _steps(
    config: RunConfig,
    course: Course,
    advance: Callable[[PyTree, int, bool], PyTree],
    start: _Start,
    stop: Stop,
    metrics: Metrics,
    save: Callable[[int, PyTree], None],
) -> tuple[int, PyTree, int]:
    """Steps to the end, a signal or a loss to stop at; logs, evaluates and saves where it is due.

    Returns:
        The step of the last checkpoint, the last carry, and the step that diverged, 0 if none did.
    """
    step, carry, saved, diverged = start.step, start.carry, start.step, 0
    mark, marked = time.perf_counter(), step
    while step < config.steps and not stop.signum:
        due = Due.after(config, step + course.stride)
        carry = advance(carry, step, any(due))
        step += course.stride
        if not any(due):
            continue
        jax.block_until_ready(carry)
        stop.agree()
        speed = (step - marked) / (time.perf_counter() - mark)
        record, diverged = course.look(carry, step, due)
        if diverged:
            break
        if due.log or due.evaluate:
            speeds = {name: count * speed for name, count in course.units.items()}
            metrics.write({"step": step, **record, "steps_per_second": speed, **speeds})
        if due.checkpoint:  # after the log line, which a resumed run then still has
            save(step, carry)
            saved = step
        mark, marked = time.perf_counter(), step
    if step > saved and not diverged:
        _, diverged = course.look(carry, step, Due(False, False, False))
        if not diverged:
            save(step, carry)
            saved = step
    return saved, carry, diverged
