"""Time to a target, from what ``benchopt run`` wrote: a table and a plot.

python -m benchmarks.benchopt.curves <clone>/outputs/quadratics.parquet --target=1e-6

Writes <out>.md and <out>.png. Needs pandas, pyarrow and matplotlib, which come with benchopt.
"""

import argparse
import datetime
import importlib.metadata
import os
import pathlib
import platform
import re
import statistics
import sys
from collections.abc import Sequence
from typing import Any

OURS = "optlab-"


def method(solver: str) -> str:
    """The name of a solver without its parameters.

    >>> method("optlab-SABA[batch_size=64,step_size=0.1]")
    'optlab-SABA'
    """
    return solver.split("[")[0]


def settings(solver: str) -> str:
    """The step size and the ratio of a solver.

    >>> settings("SABA[batch_size=64,outer_ratio=1.0,step_size=0.1]")
    '0.1 / 1.0'
    """
    found = dict(re.findall(r"(\w+)=([^,\]]+)", solver))
    return f"{found.get('step_size', '-')} / {found.get('outer_ratio', '-')}"


def reached(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """The first time at which a curve of (time, value) is at its target or below.

    >>> reached([(0.0, 1.0), (0.5, 0.2), (1.0, 0.1)], 0.2)
    0.5
    >>> reached([(0.0, 1.0)], 0.2)
    """
    return next((time for time, value in sorted(curve) if value <= target), None)


def summary(curves: dict[str, list], targets: Sequence[float]) -> list[dict[str, Any]]:
    """A row a solver: the lowest value, and the median time to each target.

    Args:
        curves: by solver, with a curve of (time, value) a repetition.
        targets: of the value.

    Returns:
        The rows; a time is None where some repetition does not get there.
    """
    rows = []
    for solver, runs in curves.items():
        times = {}
        for target in targets:
            found = [t for run in runs if (t := reached(run, target)) is not None]
            times[target] = statistics.median(found) if len(found) == len(runs) else None
        lowest = statistics.median(min(value for _, value in run) for run in runs)
        rows.append({"solver": solver, "runs": len(runs), "lowest": lowest, "times": times})
    return rows


def table(rows: list[dict], targets: Sequence[float]) -> str:
    """Writes the rows as Markdown, each of ours with the ratio to the one of the same name."""
    heads = [f"to {target:g} | ratio" for target in targets]
    lines = [
        f"| solver | step / ratio | lowest | {' | '.join(heads)} |",
        "|---" * (3 + 2 * len(targets)) + "|",
    ]
    theirs = {method(row["solver"]): row["times"] for row in rows}
    for row in rows:
        name = method(row["solver"])
        cells = [name, settings(row["solver"]), f"{row['lowest']:.3g}"]
        for target in targets:
            time = row["times"][target]
            base = theirs.get(name.removeprefix(OURS), {}).get(target)
            ours = name.startswith(OURS) and time is not None and base
            cells += [
                "-" if time is None else f"{time:.2f} s",
                f"{time / base:.2f}" if ours else "",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _read(path: pathlib.Path) -> dict[str, list]:
    import pandas

    frame, curves = pandas.read_parquet(path), {}
    for (solver, _), run in frame.groupby(["solver_name", "idx_rep"], sort=False):
        points = list(zip(run["time"], run["objective_value"], strict=True))
        curves.setdefault(solver, []).append(points)
    return curves


def _plot(curves: dict[str, list], targets: Sequence[float], title: str, path: pathlib.Path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    names = dict.fromkeys(method(solver).removeprefix(OURS) for solver in curves)
    colors = {name: f"C{i}" for i, name in enumerate(names)}
    for solver, runs in curves.items():
        name = method(solver)
        ours = name.startswith(OURS)
        for i, run in enumerate(runs):
            axes.semilogy(
                *zip(*sorted(run), strict=True),
                color=colors[name.removeprefix(OURS)],
                linestyle="-" if ours else "--",
                label=None if i else name,
            )
    for target in targets:
        axes.axhline(target, color="gray", linewidth=0.8)
    axes.set(xlabel="seconds (wall)", ylabel="value", title=title)
    axes.legend()
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> int:
    """Reads, writes, prints; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.benchopt.curves")
    parser.add_argument("parquet", type=pathlib.Path, help="what benchopt run wrote")
    parser.add_argument("--target", type=float, nargs="+", required=True, help="of the value")
    parser.add_argument("--title", default="", help="of the plot")
    parser.add_argument("--note", default="", help="a sentence on the circumstances")
    parser.add_argument("--out", type=pathlib.Path, help="stem of the files")
    flags = parser.parse_args(argv)
    out = flags.out or pathlib.Path(f"benchmarks/results/benchopt_{flags.parquet.stem}_cpu")
    curves = _read(flags.parquet)
    names = ("jax", "optax", "benchopt")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    written = datetime.datetime.fromtimestamp(flags.parquet.stat().st_mtime, datetime.UTC)
    head = (
        f"Median wall seconds to a value in benchopt/benchmark_bilevel's own harness, and the "
        f"ratio of ours to theirs, on {os.cpu_count()} CPU cores, {written:%Y-%m-%d}. "
        f"python {platform.python_version()}, {versions}. {flags.note}".strip()
    )
    text = f"{head}\n\n{table(summary(curves, flags.target), flags.target)}"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    _plot(curves, flags.target, flags.title, out.with_suffix(".png"))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
