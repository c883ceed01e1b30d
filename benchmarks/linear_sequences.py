"""Iterations of learned and recycled linear solvers over sequences of systems, beside plain ones.

python -m benchmarks.linear_sequences

writes <out>.json, <out>.md and <out>.png, and prints the table.
"""

import argparse
import datetime
import importlib.metadata
import json
import pathlib
import sys
from collections.abc import Sequence

import jax
import numpy as np
from absl import logging

from benchmarks import _linear_sequences as sequences
from optlab.problems import hypergradient_problem

TITLES = {
    "recycling": "Products with A: Poisson, varying conductivity, to 1e-5",
    "hessians": "Products with A: Hessians of clean_dig along a path of x, to 1e-5",
    "relaxation": "Iterations of SOR: Poisson plus random shifts, to 1e-6",
    "directions": "Iterations: Poisson, unseen right-hand sides, to 1e-5",
}


def measure(systems: int, bandit_systems: int, steps: int) -> dict:
    """Runs all sequences.

    Args:
        systems: of the recycling.
        bandit_systems: of the bandits.
        steps: of the network's training.

    Returns:
        What ``json.dump`` can write.
    """
    return {
        "benchmark": "linear_sequences",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {n: importlib.metadata.version(n) for n in ("jax", "flax", "lineax")},
        "parts": {
            "recycling": sequences.recycling(systems),
            "hessians": sequences.hessians(hypergradient_problem("clean_dig"), systems // 2),
            "relaxation": sequences.relaxation(bandit_systems),
            "directions": sequences.directions(systems, steps=steps),
        },
    }


def table(result: dict) -> str:
    """Writes the means as Markdown.

    Args:
        result: what :func:`measure` gave.

    Returns:
        The text.
    """
    lines = ["| sequence | method | mean | last quarter |", "|---|---|---|---|"]
    for part, methods in result["parts"].items():
        for label, counts in methods.items():
            last = np.mean(counts[-max(1, len(counts) // 4) :])
            lines.append(f"| {TITLES[part]} | {label} | {np.mean(counts):.1f} | {last:.1f} |")
    return "\n".join(lines) + "\n"


def plot(result: dict, path: pathlib.Path) -> None:
    """Draws the running totals of each sequence.

    Args:
        result: what :func:`measure` gave.
        path: the image to write.
    """
    # Imported here, for matplotlib is an extra; a figure without pyplot needs no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2).ravel()
    for ax, (part, methods) in zip(axes, result["parts"].items(), strict=True):
        for label, counts in methods.items():
            style = "--" if "known" in label else "-"
            ax.plot(np.arange(1, len(counts) + 1), np.cumsum(counts), style, label=label)
        ax.set_title(TITLES[part], loc="left", fontsize=10)
        ax.set_xlabel("systems")
        ax.legend(frameon=False, fontsize=8)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="0.9")
    axes[0].set_ylabel("in total")
    figure.savefig(path, dpi=130)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and reports; gives the exit code."""
    logging.set_verbosity(logging.WARNING)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.linear_sequences",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    default = pathlib.Path("benchmarks/results/linear_sequences")
    parser.add_argument("--systems", type=int, default=24, help="systems of the recycling")
    parser.add_argument("--bandit_systems", type=int, default=600, help="systems of the bandits")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of the network")
    parser.add_argument("--out", type=pathlib.Path, default=default, help="stem of the files")
    flags = parser.parse_args(argv)
    if min(flags.systems, flags.bandit_systems) < 2 or flags.steps < 1:
        parser.error("--systems and --bandit_systems must be at least 2, --steps at least 1.")
    out = flags.out
    out.parent.mkdir(parents=True, exist_ok=True)
    with jax.enable_x64(False):
        result = measure(flags.systems, flags.bandit_systems, flags.steps)
    out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(table(result), encoding="utf-8")
    plot(result, out.with_suffix(".png"))
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
