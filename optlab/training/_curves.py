"""Runs and sweeps beside each other: their figures over the steps, as curves and as a table."""

import csv
import json
import os
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence

from optlab.training._config import ConfigError
from optlab.training._metrics import read_metrics

__all__ = ["find_runs", "plot_curves", "write_curves"]

_TITLES = {"train_loss": "training loss", "test_accuracy": "test accuracy"}

Runs = Mapping[str, str | os.PathLike | Sequence[str | os.PathLike]]


def find_runs(workdirs: Iterable[str | os.PathLike]) -> dict[str, list[pathlib.Path]]:
    """Gives the metrics files of some runs and sweeps by a label for each.

    Args:
        workdirs: of runs, or of sweeps, which stand for the best point of each method: the runs of
            its fresh seeds if there are any.

    Returns:
        One file for a run, several for the seeds of a method.

    Raises:
        ConfigError: if a folder is neither.

    >>> find_runs(["no/such/run"])
    Traceback (most recent call last):
    optlab.training._config.ConfigError: 'no/such/run' holds no metrics.jsonl of a run and no
    results.json of a sweep.
    """
    found, workdirs = {}, [pathlib.Path(workdir) for workdir in workdirs]
    names = [workdir.resolve().name for workdir in workdirs]
    for workdir, name in zip(workdirs, names, strict=True):
        label = name if names.count(name) == 1 else str(workdir)
        results = workdir / "results.json"
        if (workdir / "metrics.jsonl").is_file():
            found[label] = [workdir / "metrics.jsonl"]
        elif results.is_file():
            methods = json.loads(results.read_text(encoding="utf-8"))["methods"]
            for method, winner in methods.items():
                key = method if len(workdirs) == 1 else f"{label}, {method}"
                found[key] = [workdir / run / "metrics.jsonl" for run in winner["runs"]]
        else:
            raise ConfigError(
                f"{str(workdir)!r} holds no metrics.jsonl of a run and no results.json of a sweep."
            )
    return found


def plot_curves(
    runs: Runs,
    path: str | os.PathLike,
    metrics: Sequence[str] = ("train_loss", "test_accuracy"),
    over: str = "step",
) -> None:
    """Draws figures of some runs over the steps, or over the time that these took.

    Args:
        runs: the ``metrics.jsonl`` of each run by its label; several files are drawn as their mean
            inside the range that they span.
        path: of the picture; its suffix gives the format.
        metrics: the figures, a panel each; losses are on a logarithmic scale.
        over: ``step``, or ``seconds`` of stepping, without evaluations, checkpoints and start-up.

    Raises:
        ValueError: if ``over`` is neither.

    >>> import io
    >>> picture = io.BytesIO()
    >>> plot_curves({}, picture)
    >>> picture.getvalue()[1:4]
    b'PNG'
    """
    if over not in ("step", "seconds"):
        raise ValueError(f"over must be 'step' or 'seconds', got {over!r}.")
    from matplotlib.figure import Figure  # takes a second; without pyplot there is no global state

    figure = Figure(figsize=(4.5 * len(metrics), 3.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for label, files in runs.items():
            points = _points(files, name)
            times = _times(files) if over == "seconds" else {step: step for step in points}
            steps = [times[step] for step in points]
            means = [statistics.fmean(v) for v in points.values()]
            (line,) = axes.plot(steps, means, label=label, marker="." if len(points) < 3 else "")
            if any(len(v) > 1 for v in points.values()):
                ranges = zip(*((min(v), max(v)) for v in points.values()), strict=True)
                axes.fill_between(steps, *ranges, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set(xlabel=over, ylabel=_TITLES.get(name, name.replace("_", " ")))
        axes.grid(alpha=0.3)
        if name.endswith("loss"):
            axes.set_yscale("log")
    if runs:
        figure.axes[-1].legend()
    figure.savefig(path, dpi=120)


def _points(files: str | os.PathLike | Sequence[str | os.PathLike], name: str) -> dict:
    """The values of a figure by step."""
    points: dict[int, list[float]] = {}
    for file in _each(files):
        for record in read_metrics(file):
            if name in record:
                points.setdefault(record["step"], []).append(record[name])
    return dict(sorted(points.items()))


def _times(files: str | os.PathLike | Sequence[str | os.PathLike]) -> dict[int, float]:
    """The seconds that the steps up to each line took, mean over the files."""
    times: dict[int, list[float]] = {}
    for file in _each(files):
        step, seconds = 0, 0.0
        for record in read_metrics(file):
            seconds += (record["step"] - step) / record["steps_per_second"]
            step = record["step"]
            times.setdefault(step, []).append(seconds)
    return {step: statistics.fmean(values) for step, values in times.items()}


def _each(files: str | os.PathLike | Sequence[str | os.PathLike]) -> Sequence[str | os.PathLike]:
    return [files] if isinstance(files, str | os.PathLike) else files


def write_curves(
    runs: Mapping[str, Sequence[pathlib.Path]], path: str | os.PathLike, metrics: Sequence[str]
) -> None:
    """Writes figures of some runs as a table, a line for each step that has one of them.

    Args:
        runs: as :func:`find_runs` gives them.
        path: of the table, as CSV.
        metrics: the columns, after label, workdir and step.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("r") as file:
    ...     write_curves({}, file.name, ["train_loss"])
    ...     file.read()
    'label,workdir,step,train_loss\\n'
    """
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["label", "workdir", "step", *metrics])
        for label, files in runs.items():
            for metrics_file in files:
                for record in read_metrics(metrics_file):
                    if any(name in record for name in metrics):
                        figures = [record.get(name, "") for name in metrics]
                        table.writerow([label, metrics_file.parent, record["step"], *figures])
