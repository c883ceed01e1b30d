"""Sweeps: every method at every point of a grid with every seed, resumable, side by side."""

import dataclasses
import math
import os
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from optlab.training._config import ConfigError, TrainConfig, nearest
from optlab.training._extras import check_extras
from optlab.training._grid import Cell, make_cells, short
from optlab.training._metrics import read_metrics
from optlab.training._result import Result, last_value
from optlab.training._signals import noting_signals
from optlab.training._worker import Worker, progress

__all__ = ["Sweep", "Winner", "larger_is_better", "spread", "sweep"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Winner:
    """The best point of a method.

    Attributes:
        values: of the grid, by dotted path.
        scores: by seed, those that chose it.
        fresh: by seed, scores of seeds that had no part in the choice.
        edges: the paths whose value is the first or last of its axis: a wider grid might do better.
    """

    values: Mapping[str, Any]
    scores: Mapping[int, float]
    fresh: Mapping[int, float]
    edges: tuple[str, ...]

    @property
    def reported(self) -> Mapping[int, float]:
        """The fresh scores, or where there are none those that chose it."""
        return self.fresh or self.scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep came to so far.

    Attributes:
        workdir: its folder.
        metric: by which points are judged.
        cells, fresh: those of the grid, and those of the winners' fresh seeds.
        results: of the cells that ended, by name.
        scores: the metric of each, as last logged; inf or -inf, the worst, if it diverged.
        winners: by method; none until all cells ended.
        signum: the signal that stopped it, 0 if none did.
        elsewhere: how many cells another process has.
    """

    workdir: pathlib.Path
    metric: str
    cells: Sequence[Cell]
    fresh: Sequence[Cell]
    results: Mapping[str, Result]
    scores: Mapping[str, float]
    winners: Mapping[str, Winner]
    signum: int
    elsewhere: int

    def points(self, method: str) -> list[tuple[dict[str, Any], dict[int, float]]]:
        """Gives the points of a method, the best first, each with its scores by seed."""
        return _points(method, self.cells, self.scores, self.metric)

    @property
    def ranking(self) -> list[str]:
        """The methods, the best first."""
        means = {name: _mean(winner.reported) for name, winner in self.winners.items()}
        return sorted(means, key=means.__getitem__, reverse=larger_is_better(self.metric))

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        told = []
        for method in self.ranking:
            winner = self.winners[method]
            values = ", ".join(f"{short(p)}={v}" for p, v in winner.values.items())
            found = f"{method} has a {self.metric} of {spread(winner.reported)}"
            told.append(found + f" with {values}" * bool(values))
        seeds = len(next(iter(self.winners.values())).reported)
        of = f" (mean ± standard deviation of {seeds} seeds)" if seeds > 1 else ""
        return f"{'; '.join(told)}{of}."


def sweep(
    methods: Mapping[str, TrainConfig],
    grid: Mapping[str, Sequence[Any]],
    seeds: Sequence[int],
    workdir: str | os.PathLike,
    *,
    metric: str = "test_loss",
    fresh_seeds: int = 0,
    lanes: int = 16,
) -> Sweep:
    """Trains every method at every point of a grid with every seed.

    The same call goes on where it was stopped; cells that ended are kept, and further values,
    seeds or methods add cells to them. Several processes may work on one folder: each takes cells
    that no other has.

    Args:
        methods: configs by label.
        grid: values by dotted path, the same for each method; a ``Times`` multiplies its own.
        seeds: of each point.
        workdir: gets ``cells/``, each like the workdir of a run.
        metric: a figure of the log lines, larger is better if it ends in ``accuracy``.
        fresh_seeds: how many further seeds the best point of each method is trained with; the
            scores of those that chose it flatter it.
        lanes: how many cells that differ in seed and numbers of the optimizer share one compiled
            program; 0 trains each by itself, as do a mesh or an optimizer that refuses.

    Returns:
        What was found so far.

    Raises:
        ConfigError: if a config, the grid or the workdir is wrong, or the metric unknown.
        StorageError: if the disk is full, say; the same call then goes on.

    >>> import tempfile
    >>> found = sweep({"adamw": TrainConfig(steps=3)}, {}, [0, 1], tempfile.mkdtemp())
    >>> found.ranking, len(found.results)
    (['adamw'], 2)
    """
    check_extras()
    if not seeds:
        raise ConfigError("seeds must be one at least.")
    cells, fresh, best = make_cells(methods, grid, seeds), [], {}
    with noting_signals() as stop:
        worker = Worker(pathlib.Path(workdir), lanes, stop)
        steps = sum(cell.config.steps for cell in cells)
        steps += fresh_seeds * sum(config.steps for config in methods.values())
        with progress(steps) as worker.on_steps:
            worker.work_off(cells)
            scores = _scores(worker.results, metric)
            if len(worker.results) == len(cells):
                best = {m: _points(m, cells, scores, metric)[0] for m in methods}
                further = range(max(seeds) + 1, max(seeds) + 1 + fresh_seeds)
                for method, (values, _) in best.items() if further else ():
                    point = {path: [value] for path, value in values.items()}
                    fresh += make_cells({method: methods[method]}, point, further)
                worker.work_off(fresh)
                scores = _scores(worker.results, metric)
    complete = best and len(worker.results) == len(cells) + len(fresh)
    winners = {
        method: Winner(
            values=values,
            scores=chosen_by,
            fresh={c.config.seed: scores[c.name] for c in fresh if c.method == method},
            edges=_edges(method, values, cells),
        )
        for method, (values, chosen_by) in (best.items() if complete else ())
    }
    return Sweep(
        workdir=pathlib.Path(workdir),
        metric=metric,
        cells=cells,
        fresh=fresh,
        results=worker.results,
        scores=scores,
        winners=winners,
        signum=0 if complete else stop.signum,
        elsewhere=worker.elsewhere,
    )


def larger_is_better(metric: str) -> bool:
    """Whether a metric is one to maximise."""
    return metric.endswith("accuracy")


def _scores(results: Mapping[str, Result], metric: str) -> dict[str, float]:
    """The metric of each cell, as last logged; the worst there is for one that diverged."""
    worst = -math.inf if larger_is_better(metric) else math.inf
    scores, known = {}, set()
    for name, result in results.items():
        records = read_metrics(result.metrics_path)
        known |= {key for record in records for key in record}
        score = last_value(records, metric)
        scores[name] = worst if result.diverged_at or math.isnan(score) else score
    if known and metric not in known and not all(r.diverged_at for r in results.values()):
        raise ConfigError(f"metric {metric!r} is unknown; {nearest(metric, known)}")
    return scores


def _mean(scores: Mapping[int, float]) -> float:
    return statistics.fmean(scores.values())


def spread(scores: Mapping[int, float]) -> str:
    """Mean and standard deviation of scores by seed, as text."""
    if not all(map(math.isfinite, scores.values())):
        return "nothing finite"
    deviation = f" ± {statistics.stdev(scores.values()):.2g}" if len(scores) > 1 else ""
    return f"{_mean(scores):.4g}{deviation}"


def _points(
    method: str, cells: Sequence[Cell], scores: Mapping[str, float], metric: str
) -> list[tuple[dict[str, Any], dict[int, float]]]:
    """The points of a method, that of the best mean first, each with its scores by seed."""
    points: dict[str, tuple[dict[str, Any], dict[int, float]]] = {}
    for cell in cells:
        if cell.method == method and cell.name in scores:
            # By its text, as a value may be a dict.
            _, by_seed = points.setdefault(repr(cell.values), (dict(cell.values), {}))
            by_seed[cell.config.seed] = scores[cell.name]
    return sorted(
        points.values(), key=lambda point: _mean(point[1]), reverse=larger_is_better(metric)
    )


def _edges(method: str, values: Mapping[str, Any], cells: Sequence[Cell]) -> tuple[str, ...]:
    """The paths whose value is the smallest or largest that was tried."""
    edges = []
    for path, value in values.items():
        axis = [cell.values[path] for cell in cells if cell.method == method]
        numbers = all(isinstance(v, int | float) for v in axis)
        if numbers and min(axis) < max(axis) and value in (min(axis), max(axis)):
            edges.append(path)
    return tuple(edges)
