"""What a run came to."""

import dataclasses
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from optlab.base import PyTree
from optlab.training._config import TrainConfig
from optlab.training._tasks import Task
from optlab.training._workdir import Workdir

__all__ = ["Result", "last_value", "recorded_result", "summary"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What a run came to.

    Attributes:
        workdir: its folder.
        optimizer, data: their names.
        step: of its last checkpoint; all of its steps if it ran to its end.
        signum: the signal that stopped it, 0 if none did.
        diverged_at: the step at which an inf or NaN stopped it, 0 if none did.
        resumed_at: the steps that its later processes went on from.
        train_loss, test_loss, test_accuracy: as last logged, nan before that; a regression has no
            accuracy.
        finding: what the last figures of the held-out examples say, in words.
        steps_per_second: median over the log lines; evaluation and checkpoints do not count.
        state_bytes_per_parameter: of the optimizer.
        parameters: of the model.
        seconds: wall time, over all processes of the run that ended well.
    """

    workdir: pathlib.Path
    optimizer: str
    data: str
    step: int
    signum: int
    diverged_at: int
    resumed_at: tuple[int, ...]
    train_loss: float
    test_loss: float
    test_accuracy: float
    finding: str
    steps_per_second: float
    state_bytes_per_parameter: float
    parameters: int
    seconds: float

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
                f"{self.optimizer} diverged: at step {self.diverged_at:,} its loss or parameters "
                f"were not finite; the last good checkpoint {kept}."
            )
        found = self.finding if math.isfinite(self.train_loss) else "diverged"
        return (
            f"{self.optimizer} {found} after {self.step:,} steps, at {self.steps_per_second:,.0f} "
            f"steps per second and {self.state_bytes_per_parameter:.1f} bytes of state a parameter."
        )

    @property
    def figures(self) -> dict[str, Any]:
        """What a manifest keeps of it."""
        return {k: v for k, v in vars(self).items() if k not in ("workdir", "resumed_at")}


def recorded_result(folder: Workdir, *statuses: str) -> Result | None:
    """Reads the result of a run that ended in one of some ways, None if it did not."""
    manifest = folder.read("manifest.json")
    if manifest.get("status") not in statuses:
        return None
    resumed_at = tuple(manifest["resumed_at"])
    return Result(workdir=folder.path, **{**manifest["result"], "resumed_at": resumed_at})


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
    speeds = [r["steps_per_second"] for r in records] or [math.nan]
    return Result(
        workdir=workdir,
        optimizer=config.optimizer.name,
        data=config.data.name,
        train_loss=last_value(records, "train_loss"),
        test_loss=last_value(records, "test_loss"),
        test_accuracy=last_value(records, "test_accuracy"),
        finding=task.finding.format(data=config.data.name, **tested) if tested else "",
        steps_per_second=statistics.median(speeds),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        **facts,
    )


def last_value(records: Sequence[Mapping[str, Any]], name: str) -> float:
    """Gives a figure as last logged, nan if it never was."""
    return next((r[name] for r in reversed(records) if name in r), math.nan)
