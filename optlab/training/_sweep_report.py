"""What a sweep found: a report, a plot over the learning rate, and every cell as JSON and CSV."""

import csv
import dataclasses
import io
import json
import math
import os
import pathlib
import statistics
from collections.abc import Iterable
from typing import Any

from optlab.training._grid import short
from optlab.training._sweep import Sweep, Winner, spread
from optlab.training._workdir import storing, write_text

__all__ = ["write_sweep_report"]


def write_sweep_report(sweep: Sweep) -> pathlib.Path:
    """Writes ``report.md``, ``sweep.png``, ``results.json`` and ``results.csv`` of a sweep.

    Args:
        sweep: all of whose cells ended.

    Returns:
        The path of the report.

    >>> import tempfile
    >>> from optlab.training import TrainConfig, sweep
    >>> found = sweep({"adamw": TrainConfig(steps=3)}, {}, [0], tempfile.mkdtemp())
    >>> sorted(path.name for path in write_sweep_report(found).parent.iterdir())
    ['cells', 'report.md', 'results.csv', 'results.json', 'sweep.png']
    """
    with storing(sweep.workdir / "sweep.png"):
        _plot(sweep, sweep.workdir / "sweep.png")
    rows = _rows(sweep)
    table = io.StringIO()
    columns = csv.DictWriter(table, list(rows[0]))
    columns.writeheader()
    columns.writerows(rows)
    write_text(sweep.workdir / "results.csv", table.getvalue())
    methods = {name: _told(sweep, name, winner) for name, winner in sweep.winners.items()}
    results = {"metric": sweep.metric, "methods": methods, "cells": rows}
    write_text(
        sweep.workdir / "results.json", json.dumps(_finite_or_none(results), indent=2) + "\n"
    )
    lines = [
        sweep.sentence,
        "",
        f"![{sweep.metric} over the grid](sweep.png)",
        "",
        *_winners_table(sweep),
        "",
        _notes(sweep),
    ]
    for method in sweep.ranking:
        lines += ["", f"## All points of {method}", "", *_points_table(sweep, method)]
    report = sweep.workdir / "report.md"
    write_text(report, "\n".join(lines) + "\n")
    return report


def _plot(sweep: Sweep, path: str | os.PathLike) -> None:
    """Draws the metric over the learning rate, or over the first axis of numbers.

    A bold line is a method's best over the other axes, inside the range of its seeds; faint ones
    are its other points. A cross marks a value at which all of a method's points diverged.

    Args:
        sweep: all of whose cells ended.
        path: of the picture; its suffix gives the format.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes, axis = figure.subplots(), _plotted_axis(sweep)
    for number, method in enumerate(sweep.winners):
        color = f"C{number}"
        best, lines = _lines(sweep, method, axis)
        for line in lines if len(lines) > 1 else ():
            axes.plot(*_means(line), color, alpha=0.25)
        axes.plot(*_means(best), color, marker="o", label=method)
        sound = {x: s for x, s in best.items() if _finite(s)}
        low, high = ([f(s) for s in sound.values()] for f in (min, max))
        axes.fill_between(list(sound), low, high, color=color, alpha=0.2, linewidth=0)
        lost = [x for x in best if x not in sound]
        axes.plot(lost, [0.98] * len(lost), f"{color}x", transform=axes.get_xaxis_transform())
    if axis and all(cell.values[axis] > 0 for cell in sweep.cells):
        axes.set_xscale("log")
    _, high = axes.get_ylim()
    if high > 10 * axes.dataLim.y0 > 0:
        axes.set_yscale("log")
    axes.set(xlabel=short(axis).replace("_", " "), ylabel=sweep.metric.replace("_", " "))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def _plotted_axis(sweep: Sweep) -> str:
    values = sweep.cells[0].values
    numbers = [p for p, v in values.items() if isinstance(v, int | float)]
    rates = [p for p in numbers if p.endswith("learning_rate")]
    return (rates or numbers or [""])[0]


_Line = dict[Any, list[float]]  # the scores of all seeds by the value on the axis


def _lines(sweep: Sweep, method: str, axis: str) -> tuple[_Line, list[_Line]]:
    """Gives the best over the other axes, and a line for each of their combinations."""
    best: _Line = {}
    lines: dict[Any, _Line] = {}
    for values, by_seed in sweep.points(method):  # the best first
        x, scores = values.get(axis, method), list(by_seed.values())
        best.setdefault(x, scores)
        others = tuple((path, v) for path, v in values.items() if path != axis)
        lines.setdefault(others, {})[x] = scores
    return _in_order(best), [_in_order(line) for line in lines.values()]


def _in_order(line: _Line) -> _Line:
    return {x: line[x] for x in sorted(line)}


def _means(line: _Line) -> tuple[list[Any], list[float]]:
    sound = {x: statistics.fmean(s) for x, s in line.items() if _finite(s)}
    return list(sound), list(sound.values())


def _finite(scores: Iterable[float]) -> bool:
    return all(map(math.isfinite, scores))


def _rows(sweep: Sweep) -> list[dict[str, Any]]:
    """A row a cell, those of fresh seeds last."""
    rows = []
    for cell in (*sweep.cells, *sweep.fresh):
        result = sweep.results[cell.name]
        figures = {
            name: getattr(result, name)
            for name in ("train_loss", "test_loss", "test_accuracy", "seconds")
        }
        row = {"method": cell.method, **cell.values, "seed": cell.config.seed}
        row |= {"status": result.status, **figures, sweep.metric: sweep.scores[cell.name]}
        rows.append({**row, "workdir": f"cells/{cell.name}"})
    return rows


def _told(sweep: Sweep, method: str, winner: Winner) -> dict[str, Any]:
    """What results.json says of a method."""
    runs = [
        f"cells/{cell.name}"
        for cell in (*sweep.cells, *sweep.fresh)
        if (cell.method, cell.values) == (method, winner.values)
        and cell.config.seed in winner.reported
    ]
    return {**dataclasses.asdict(winner), "runs": runs}


def _finite_or_none(tree: Any) -> Any:
    """JSON has no inf."""
    if isinstance(tree, dict):
        return {key: _finite_or_none(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite_or_none(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _winners_table(sweep: Sweep) -> Iterable[str]:
    paths = list(sweep.cells[0].values)
    fresh = ["fresh seeds"] if sweep.fresh else []
    yield from _head("method", *map(short, paths), sweep.metric, *fresh, "state bytes/parameter")
    for method in sweep.ranking:
        winner = sweep.winners[method]
        values = [f"{v}{'*' * (path in winner.edges)}" for path, v in winner.values.items()]
        scores = [spread(winner.scores), *([spread(winner.fresh)] if fresh else [])]
        run = next(c for c in sweep.cells if (c.method, c.values) == (method, winner.values))
        state = f"{sweep.results[run.name].state_bytes_per_parameter:.2f}"
        yield _row(method, *values, *scores, state)


def _points_table(sweep: Sweep, method: str) -> Iterable[str]:
    yield from _head(*map(short, sweep.cells[0].values), sweep.metric)
    for values, scores in sweep.points(method):
        yield _row(*map(str, values.values()), spread(scores))


def _head(*names: str) -> Iterable[str]:
    yield _row(*names)
    yield "|---" * len(names) + "|"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _notes(sweep: Sweep) -> str:
    """What to know about the table."""
    runs = len(sweep.cells) // len(sweep.winners)
    each = " or ".join(f"{n:,}" for n in sorted({cell.config.steps for cell in sweep.cells}))
    notes = [f"Each method was tuned with {runs} runs of {each} steps."]
    if any(winner.edges for winner in sweep.winners.values()):
        notes.append("A star marks a value at the edge of its axis: a wider grid might do better.")
    if any(len(winner.reported) > 1 for winner in sweep.winners.values()):
        notes.append("Scores are means ± standard deviations over seeds.")
    return " ".join(notes)
