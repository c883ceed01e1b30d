"""Compares the points of sweeps seed by seed, as a Markdown table.

  python -m experiments.compare runs/eight_bit_text
  python -m experiments.compare runs/eight_bit_text runs/chance --baseline 0 12 13

A seed gives the same initial parameters and the same order of the examples to all points, so that
their difference to a baseline varies less than their scores do. Its mean is given with the 95 %
confidence interval of Student's t. The baseline is the first point of the first sweep, or others by
number, from 0 on in the order of the table; of several, the mean.
"""

import argparse
import json
import math
import pathlib
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def read_points(folder: pathlib.Path, metric: str) -> dict[str, dict[int, float]]:
    """Gives the scores by seed of each point of a sweep, in its order.

    Args:
        folder: workdir of a sweep that has ended.
        metric: a column of its results.

    Returns:
        Scores by label, which are the values that tell the point from others.

    Raises:
        ValueError: if there are no such results.
    """
    try:
        cells = json.loads((folder / "results.json").read_text(encoding="utf-8"))["cells"]
        table = [(_label(cells, cell), cell["seed"], cell[metric]) for cell in cells]
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"{folder} has no results of a sweep with {metric!r}.") from error
    points: dict[str, dict[int, float]] = {}
    for label, seed, score in table:
        points.setdefault(label, {})[seed] = math.nan if score is None else score
    return points


def _label(cells: Sequence[Mapping[str, Any]], cell: Mapping[str, Any]) -> str:
    """The values of a cell that differ among all of them."""
    names = list(cell)[: list(cell).index("seed")]
    differing = [name for name in names if len({repr(c[name]) for c in cells}) > 1]
    return ", ".join(str(cell[name]) for name in differing) or str(cell["method"])


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Gives the mean of paired differences and half the width of its 95 % confidence interval.

    >>> [round(x, 3) for x in interval([1.0, 2.0, 3.0])]
    [2.0, 2.484]
    """
    from scipy.stats import t

    n, mean = len(differences), statistics.fmean(differences)
    if n < 2:
        return mean, math.inf
    variance = math.fsum((x - mean) ** 2 for x in differences) / (n - 1)
    return mean, float(t.ppf(0.975, n - 1)) * math.sqrt(variance / n)


def rows(
    points: Mapping[str, Mapping[int, float]], baseline: Sequence[str], metric: str
) -> Iterable[str]:
    """Gives the lines of the table; the baseline is a point, or the mean of several, by seed."""
    common = set.intersection(*(set(points[label]) for label in baseline))
    base = {seed: statistics.fmean(points[label][seed] for label in baseline) for seed in common}
    yield f"| point | {metric} | difference to {', '.join(baseline)} | 95 % interval | seeds |"
    yield "|---|---|---|---|---|"
    for label, scores in points.items():
        seeds = sorted(scores.keys() & base.keys())
        mean = f"| `{label}` | {statistics.fmean(scores.values()):.4f} "
        if [label] == list(baseline) or not seeds:
            yield f"{mean}| | | {len(scores)} |"
            continue
        center, half = interval([scores[seed] - base[seed] for seed in seeds])
        low, high = center - half, center + half
        yield f"{mean}| {center:+.4f} | {low:+.4f} to {high:+.4f} | {len(seeds)} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.compare")
    parser.add_argument("workdirs", nargs="+", type=pathlib.Path, help="of sweeps that ended")
    parser.add_argument("--metric", default="test_loss", help="a column of results.csv")
    parser.add_argument(
        "--baseline", type=int, nargs="+", default=[0], help="numbers of the points to subtract"
    )
    flags = parser.parse_args(argv)
    points: dict[str, dict[int, float]] = {}
    try:
        for folder in flags.workdirs:
            for label, scores in read_points(folder, flags.metric).items():
                points[f"{folder.name}: {label}" if label in points else label] = scores
        if not all(0 <= number < len(points) for number in flags.baseline):
            raise ValueError(f"--baseline must lie below the number of points, {len(points)}.")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    baseline = [list(points)[number] for number in flags.baseline]
    print("\n".join(rows(points, baseline, flags.metric)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
