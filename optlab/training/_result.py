"""What a run came to."""

import dataclasses
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax

from optlab.base import PyTree
from optlab.training._config import TrainConfig
from optlab.training._tasks import Task
from optlab.training._workdir import Workdir

__all__ = ["Result", "RunResult", "last_value", "median_speed", "recorded_result", "summary"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult:
    """What any run came to.

    Attributes:
        workdir: its folder.
        step: of its last checkpoint; all of its steps if it ran to its end.
        signum: the signal that stopped it, 0 if none did.
        diverged_at: the step at which an inf or NaN stopped it, 0 if none did.
        resumed_at: the steps that its later processes went on from.
        finding: what the last figures of the held-out examples say, in words.
        steps_per_second: median over the log lines; evaluation and checkpoints do not count.
        seconds: wall time, over all processes of the run that ended well.
    """

    workdir: pathlib.Path
    step: int
    signum: int
    diverged_at: int
    resumed_at: tuple[int, ...]
    finding: str
    steps_per_second: float
    seconds: float

    @property
    def method(self) -> str:
        """The name of what ran."""
        raise NotImplementedError

    @property
    def status(self) -> str:
        """How it ended: ``done``, ``preempted`` or ``diverged``."""
        return "diverged" if self.diverged_at else "preempted" if self.signum else "done"

    @property
    def metrics_path(self) -> pathlib.Path:
        """The run's ``metrics.jsonl``."""
        return self.workdir / "metrics.jsonl"

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        if self.diverged_at:
            kept = f"is that of step {self.step:,}" if self.step else "does not exist"
            return (
                f"{self.method} diverged: at step {self.diverged_at:,} its loss or parameters "
                f"were not finite; the last good checkpoint {kept}."
            )
        return (
            f"{self.method} {self.outcome} after {self.step:,} steps, "
            f"at {self.steps_per_second:,.0f} steps per second{self.aside}."
        )

    @property
    def outcome(self) -> str:
        """The finding, unless it is worth nothing."""
        return self.finding

    @property
    def aside(self) -> str:
        """What the sentence ends with."""
        return ""

    @property
    def figures(self) -> dict[str, Any]:
        """What a manifest keeps of it."""
        return {k: v for k, v in vars(self).items() if k not in ("workdir", "resumed_at")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result(RunResult):
    """What a training run came to.

    Attributes:
        optimizer, data: their names.
        train_loss, test_loss, test_accuracy: as last logged, nan before that; a regression has no
            accuracy.
        state_bytes_per_parameter: of the optimizer.
        parameters: of the model.
    """

    optimizer: str
    data: str
    train_loss: float
    test_loss: float
    test_accuracy: float
    state_bytes_per_parameter: float
    parameters: int

    @property
    def method(self) -> str:
        """The optimizer."""
        return self.optimizer

    @property
    def outcome(self) -> str:
        """The finding, unless the loss was not finite."""
        return self.finding if math.isfinite(self.train_loss) else "diverged"

    @property
    def aside(self) -> str:
        """The memory of the optimizer."""
        return f" and {self.state_bytes_per_parameter:.1f} bytes of state a parameter"


AnyResult = TypeVar("AnyResult", bound=RunResult)


def recorded_result(
    folder: Workdir, *statuses: str, kind: type[AnyResult] = Result
) -> AnyResult | None:
    """Reads the result of a run that ended in one of some ways, None if it did not."""
    manifest = folder.read("manifest.json")
    if manifest.get("status") not in statuses:
        return None
    resumed_at = tuple(manifest["resumed_at"])
    return kind(workdir=folder.path, **{**manifest["result"], "resumed_at": resumed_at})


def summary(
    config: TrainConfig,
    workdir: pathlib.Path,
    records: Sequence[Mapping[str, Any]],
    task: Task,
    params: PyTree,
    **facts: Any,
) -> Result:
    """Sums up a run.

    Args:
        config: of the run.
        workdir: its folder.
        records: its log lines.
        task: what it was judged by.
        params: its parameters.
        **facts: the fields of the result that the above do not tell.

    Returns:
        The result.
    """
    tested = {k[5:]: v for r in records for k, v in r.items() if k.startswith("test_")}
    return Result(
        workdir=workdir,
        optimizer=config.optimizer.name,
        data=config.data.name,
        train_loss=last_value(records, "train_loss"),
        test_loss=last_value(records, "test_loss"),
        test_accuracy=last_value(records, "test_accuracy"),
        finding=task.finding.format(data=config.data.name, **tested) if tested else "",
        steps_per_second=median_speed(records),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        **facts,
    )


def last_value(records: Sequence[Mapping[str, Any]], name: str) -> float:
    """Gives a figure as last logged, nan if it never was."""
    return next((r[name] for r in reversed(records) if name in r), math.nan)


def median_speed(records: Sequence[Mapping[str, Any]]) -> float:
    """Gives the steps per second of the log lines, nan without one."""
    return statistics.median([r["steps_per_second"] for r in records] or [math.nan])
