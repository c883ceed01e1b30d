"""Errors and CPU time of hypergradients, beside jaxopt, optimistix and TorchOpt.

python -m benchmarks.hypergradients
taskset -c 0 python -m benchmarks.hypergradients --torch_python=<python with torch and torchopt>

Peers that are not installed are left out. Writes <out>.json and <out>.md, and prints the tables.
The stored figures are of one core: on several, small programs pay for waking the others, more or
less from run to run.
"""

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from benchmarks import _hypergradient_methods as methods
from optlab.problems import HYPERGRADIENT_PROBLEMS, hypergradient_problem

_SAMPLE_SECONDS = 0.02  # a sample is as many calls as last this long
PARTS = {
    "given": "The inner solution is given: the linear solve alone",
    "end_to_end": "From zeros: the inner solve to 1e-8, then the hypergradient",
    "unrolled": "Gradient descent from the solution, differentiated",
    "tasks": "64 few-shot tasks under vmap: their inner solves to 1e-8, differentiated",
}


class _Timed:
    """A compiled method: its answer, its temporaries, and samples of its CPU time."""

    def __init__(self, method, arguments):
        self.arguments = arguments
        self.run = jax.jit(method).lower(*arguments).compile()
        self.h, self.failed = jax.block_until_ready(self.run(*arguments))
        self.temp_bytes = self.run.memory_analysis().temp_size_in_bytes
        self.calls = 1
        self.calls = max(1, round(_SAMPLE_SECONDS / max(self.sample(), 1e-6)))
        self.samples = []

    def sample(self) -> float:
        start = time.process_time()
        for _ in range(self.calls):  # one at a time: calls that overlap compete for the cores
            jax.block_until_ready(self.run(*self.arguments))
        return (time.process_time() - start) / self.calls


def _measure(part: str, name: str, dtype: str, repeats: int, steps: int) -> dict:
    """One row a method: error, flag, CPU milliseconds and temporaries."""
    with jax.enable_x64(dtype == "float64"):
        few_shot = part == "tasks"
        problem = methods.few_shot(dtype) if few_shot else hypergradient_problem(name, dtype)
        arguments = list(problem.arguments[2:])
        if few_shot:
            chosen = methods.tasks(problem)
        elif part == "given":
            chosen = methods.given_solution(problem)
        elif part == "end_to_end":
            chosen = methods.end_to_end(problem)
            arguments[1] = jnp.zeros_like(problem.y)
        else:
            chosen = methods.unrolling(problem, steps)
        timed, rows = {}, {}
        for label, method in chosen.items():
            try:
                timed[label] = _Timed(method, arguments)
            except (TypeError, ValueError, RuntimeError) as error:
                # A peer's failure is a result.
                line = type(error).__name__
                rows[label] = {"error": None, "failed": None, "milliseconds": None, "note": line}
        # In random turns: what comes after a dense factorisation pays for the threads it left busy.
        rng, turns = random.Random(0), list(timed.values())
        for _ in range(repeats):
            rng.shuffle(turns)
            for run in turns:
                run.samples.append(run.sample())
        for label, run in timed.items():
            rows[label] = {
                "error": problem.error(run.h),
                "failed": None if run.failed is None else bool(run.failed),
                "milliseconds": 1e3 * statistics.median(run.samples),
                "temp_bytes": run.temp_bytes,
            }
        print(f"{part} {name} {dtype}: {len(rows)} methods", file=sys.stderr, flush=True)
        return {label: rows[label] for label in chosen}


def _torchopt(python: str, repeats: int) -> dict:
    """The rows of TorchOpt, from its own process."""
    data = {}
    with jax.enable_x64(True):
        for name in HYPERGRADIENT_PROBLEMS:
            problem = hypergradient_problem(name, "float64")
            (c, d), (a, b) = problem.outer_batch, problem.inner_batch
            arrays = {"x": problem.x, "y": problem.y, "a": a, "b": b, "c": c, "d": d}
            data |= {f"{name}/{key}": np.asarray(value) for key, value in arrays.items()}
            data[f"{name}/h"] = problem.hypergradient
    script = pathlib.Path(__file__).parent / "_torchopt_hypergradients.py"
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "problems.npz")
        np.savez(path, **data)
        done = subprocess.run(
            [python, str(script), path, str(repeats)], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise ValueError(f"--torch_python: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("jax", "optax", "lineax", *methods.PEERS):
        found[name] = importlib.metadata.version(name)
    return found


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def measure(
    parts: Sequence[str],
    names: Sequence[str],
    repeats: int,
    steps: int,
    torch_python: str | None = None,
) -> dict:
    """Runs the parts.

    Args:
        parts: of ``PARTS``.
        names: of problems.
        repeats: samples a method.
        steps: of the unrolled loops.
        torch_python: interpreter of an environment with torch and torchopt, or None.

    Returns:
        What ``json.dump`` can write.
    """
    rows = []
    for part in parts:
        for name in ("few_shot",) if part == "tasks" else names:
            by_dtype = {d: _measure(part, name, d, repeats, steps) for d in ("float64", "float32")}
            for label in by_dtype["float64"]:
                row = {"part": part, "problem": name, "method": label}
                rows.append(row | {dtype: by_dtype[dtype][label] for dtype in by_dtype})
    versions = _versions()
    if torch_python is not None:
        child = _torchopt(torch_python, repeats)
        versions |= child["versions"]
        rows += [{"part": "given", **row} for row in child["rows"] if row["problem"] in names]
    return {
        "benchmark": "hypergradients",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "platform": jax.devices()[0].platform,
        "cpu_count": _cores(),
        "repeats": repeats,
        "steps": steps,
        "rows": rows,
    }


def table(result: dict) -> str:
    """Writes a result as Markdown, one table a part.

    Args:
        result: what :func:`measure` gave.

    Returns:
        The text. A cell is the relative error, F where the method says that it failed, and the
        CPU milliseconds.
    """
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"Relative error of the hypergradient / CPU milliseconds, on {result['cpu_count']} "
        f"{result['platform'].upper()} core(s), {result['date'][:10]}; F: the method flags it. "
        f"Medians of {result['repeats']} samples, in random turns. {versions}.",
    ]
    for part in dict.fromkeys(row["part"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["part"] == part]
        names = list(dict.fromkeys(row["problem"] for row in rows))
        labels = list(dict.fromkeys(row["method"] for row in rows))
        cells = {(r["method"], r["problem"], d): r[d] for r in rows for d in ("float64", "float32")}
        lines += ["", f"**{PARTS[part]}**", "", f"| method | dtype |{'|'.join(names)}|"]
        lines.append("|---" * (2 + len(names)) + "|")
        for label in labels:
            for dtype in ("float64", "float32"):
                row = [_cell(cells[label, name, dtype]) for name in names]
                lines.append(f"| {label} | {dtype} | {' | '.join(row)} |")
        if part == "unrolled":
            lines += ["", *_checkpoint_notes(rows, names)]
    return "\n".join(lines) + "\n"


def _cell(value: dict) -> str:
    if value["error"] is None:
        return f"raises: {value['note']}"
    error = f"{value['error']:.1e}" if math.isfinite(value["error"]) else "NaN"
    flag = " F" if value["failed"] else ""
    return f"{error}{flag} / {value['milliseconds']:.3g}"


def _checkpoint_notes(rows: list[dict], names: list[str]) -> list[str]:
    notes = []
    for name in names:
        plain, saved = (row["float64"] for row in rows if row["problem"] == name)
        notes.append(
            f"- {name}: checkpoints take {saved['milliseconds'] / plain['milliseconds']:.2f} of "
            f"the time and {saved['temp_bytes'] / plain['temp_bytes']:.3f} of the temporaries."
        )
    return notes


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and reports; gives the exit code."""
    logging.set_verbosity(logging.FATAL)  # a peer's failure is a cell of the table
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hypergradients",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    default = pathlib.Path("benchmarks/results/hypergradients_cpu")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--problems", nargs="+", choices=HYPERGRADIENT_PROBLEMS, default=HYPERGRADIENT_PROBLEMS
    )
    parser.add_argument("--repeats", type=int, default=15, help="samples a method, in turns")
    parser.add_argument("--steps", type=int, default=1000, help="inner steps of unrolled loops")
    parser.add_argument("--torch_python", help="interpreter that has torch and torchopt")
    parser.add_argument("--out", type=pathlib.Path, default=default, help="stem of the files")
    flags = parser.parse_args(argv)
    if flags.repeats < 1 or flags.steps < 1:
        parser.error("--repeats and --steps must be at least 1.")
    out = flags.out
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        result = measure(
            flags.parts, flags.problems, flags.repeats, flags.steps, flags.torch_python
        )
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(table(result), encoding="utf-8")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
