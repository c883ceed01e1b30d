"""optlab's plug-ins beside the benchmark's own solvers, step by step.

python -m benchmarks.benchopt.compare --benchmark=<clone of benchopt/benchmark_bilevel>

Two questions: are the iterates the same, and what does a step cost? Both run from the benchmark's
starting point on its samplers; every clock is read when the results are there. Writes <out>.json
and <out>.md, and prints the tables.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

HERE = pathlib.Path(__file__).parent
# What a method needs so that both take the same minibatches; None: they never do.
EXACT = {
    "soba": {},
    "saba": {},
    "srba": {},
    "amigo": {},
    "stocbio": {},
    "bsa": {},
    "ttsa": {},
    "mrbo": {},
    "sustain": {},
    "f2sa": {"batch_size": "full"},
    "bome": {},
    "fsla": None,
    "vrbo": None,
    "pzobo": None,
}
SMALL = {"n_samples_inner": 256, "n_samples_outer": 192, "dim_inner": 12, "dim_outer": 5}
FULL_BATCH = ("bome", "pzobo")


class _Clock:
    """A callback that lets a solver run some epochs and notes when each was done."""

    def __init__(self, solver: Any, epochs: int):
        self.solver, self.epochs, self.marks = solver, epochs, []

    def __call__(self) -> bool:
        if self.marks:
            jax.block_until_ready((self.solver.inner_var, self.solver.outer_var))
        self.marks.append((time.perf_counter(), time.process_time()))
        return len(self.marks) <= self.epochs

    def seconds(self) -> np.ndarray:
        """Wall and CPU seconds of each epoch, shape=[epochs, 2]."""
        return np.diff(np.asarray(self.marks), axis=0)


def _run(solver: Any, epochs: int) -> _Clock:
    clock = _Clock(solver, epochs)
    solver.run(clock)
    return clock


def _first(values: Any) -> Any:
    return values[0] if isinstance(values, (list, tuple)) else values


class Harness:
    """The benchmark's problem of a data set, and solvers set up on it."""

    def __init__(self, folder: pathlib.Path, dataset: str):
        from benchopt.benchmark import Benchmark  # not a requirement of the table's readers

        self.benchmark = Benchmark(folder)
        self.folder = folder
        ((cls, parameters),) = self.benchmark.check_dataset_patterns([dataset])
        objective = self.benchmark.get_benchmark_objective().get_instance()
        chosen = {name: _first(values) for name, values in parameters.items()}
        objective.set_data(**cls.get_instance(**chosen).get_data())
        self.problem = objective.get_objective()

    def pair(self, method: str, **parameters: Any) -> tuple[Any, Any]:
        """Gives their solver of a method, and ours."""
        files = self.folder / f"solvers/{method}.py", HERE / f"solvers/optlab_{method}.py"
        return tuple(self._solver(path, parameters) for path in files)

    def _solver(self, path: pathlib.Path, parameters: dict) -> Any:
        ((cls, _),) = self.benchmark.check_solver_patterns([str(path)])
        known = {name: value for name, value in parameters.items() if name in cls.parameters}
        solver = cls.get_instance(**known)
        solver.set_objective(**self.problem)
        return solver


def _difference(a: Any, b: Any) -> float:
    """Relative, of the larger of the two variables' differences."""
    pairs = ((a.inner_var, b.inner_var), (a.outer_var, b.outer_var))
    return max(float(np.linalg.norm(x - y) / np.linalg.norm(x)) for x, y in pairs)


def equality(folder: pathlib.Path, steps: int) -> list[dict]:
    """The relative difference of the iterates after some steps in float64.

    Args:
        folder: the clone.
        steps: of each method, in two epochs.

    Returns:
        A row a method.
    """
    rows = []
    size = ",".join(f"{name}={value}" for name, value in SMALL.items())
    with jax.enable_x64(True):
        harness = Harness(folder, f"simulated[{size}]")
        for method, needs in EXACT.items():
            if needs is None:
                continue
            epochs = steps if method in FULL_BATCH else 2
            pair = harness.pair(method, eval_freq=max(1, steps // epochs), **needs)
            for solver in pair:
                _run(solver, epochs)
            rows.append({"method": method, "steps": steps, "difference": _difference(*pair)})
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def times(
    folder: pathlib.Path, dataset: str, methods: Sequence[str], length: int, rounds: int
) -> list[dict]:
    """Wall and CPU microseconds of a step, in turns.

    Args:
        folder: the clone.
        dataset: as ``benchopt run -d`` takes it.
        methods: by the names of their files.
        length: steps of an epoch.
        rounds: runs of each, of a few epochs; medians are taken over all epochs.

    Returns:
        A row a method.
    """
    harness, rows = Harness(folder, dataset), []
    for method in methods:
        # Theirs evaluates a method on all data after every step: an epoch of one. It compiles anew
        # in every run, so that the first of them must not weigh.
        steps, epochs = (1, max(8, length // 8)) if method in FULL_BATCH else (length, 3)
        pair, samples = harness.pair(method, eval_freq=steps), ([], [])
        for turn in range(rounds):
            for which in (0, 1) if turn % 2 else (1, 0):
                samples[which].extend(_run(pair[which], epochs).seconds() * 1e6 / steps)
        row = {"dataset": dataset.split("/")[-1], "method": method}
        for who, found in zip(("theirs", "ours"), samples, strict=True):
            wall, cpu = np.median(found, axis=0).tolist()
            row[who] = {"wall": wall, "cpu": cpu}
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    return rows


def table(result: dict) -> str:
    """Writes a result as Markdown.

    Args:
        result: what :func:`main` stores.

    Returns:
        The text.
    """
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"optlab's solvers beside those of benchopt/benchmark_bilevel, on {result['cpu_count']} "
        f"CPU cores, load {result['load'][0]:.1f} to {result['load'][1]:.1f}, "
        f"{result['date'][:10]}. {versions}. {result.get('note', '')}".strip(),
        "",
        "**Relative difference of the iterates, float64**",
        "",
        "| method | steps | difference |",
        "|---|---|---|",
    ]
    for row in result["equality"]:
        lines.append(f"| {row['method']} | {row['steps']} | {row['difference']:.1e} |")
    lines += [
        "",
        "**Microseconds a step, float32; medians, in turns**",
        "",
        "| data | method | theirs: wall | CPU | ours: wall | CPU | ratio: wall | CPU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["times"]:
        theirs, ours = row["theirs"], row["ours"]
        ratios = (ours[kind] / theirs[kind] for kind in ("wall", "cpu"))
        cells = [
            row["dataset"],
            row["method"],
            *(f"{v:.0f}" for v in (*theirs.values(), *ours.values())),
        ]
        lines.append(f"| {' | '.join([*cells, *(f'{ratio:.2f}' for ratio in ratios)])} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and reports; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.benchopt.compare",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    default = pathlib.Path("benchmarks/results/benchopt_steps_cpu")
    parser.add_argument("--benchmark", type=pathlib.Path, required=True, help="the clone")
    parser.add_argument("--datasets", nargs="*", default=["simulated[dim_outer=10]"])
    parser.add_argument("--methods", nargs="*", default=list(EXACT), choices=list(EXACT))
    parser.add_argument("--steps", type=int, default=128, help="of the comparison of iterates")
    parser.add_argument("--length", type=int, default=64, help="steps of a timed epoch")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each solver, in turns")
    parser.add_argument("--note", default="", help="a sentence on the circumstances")
    parser.add_argument("--out", type=pathlib.Path, default=default, help="stem of the files")
    flags = parser.parse_args(argv)
    folder, out = flags.benchmark.resolve(), flags.out.resolve()
    datasets = [str(pathlib.Path(d).resolve()) if ".py" in d else d for d in flags.datasets]
    load = [os.getloadavg()[0]]
    with contextlib.chdir(folder):  # its data and its cache lie there
        same = equality(folder, flags.steps) if flags.steps else []
        rows = []
        for dataset in datasets:
            rows += times(folder, dataset, flags.methods, flags.length, flags.rounds)
    load.append(os.getloadavg()[0])
    names = ("jax", "optax", "benchopt")
    result = {
        "benchmark": "benchopt_steps",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in names},
        "cpu_count": os.cpu_count(),
        "load": load,
        "note": flags.note,
        "equality": same,
        "times": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(table(result), encoding="utf-8")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
