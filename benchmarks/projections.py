"""Time of a low-rank projector's refresh and projection: the cosine basis beside the SVD.

python -m benchmarks.projections
python -m benchmarks.projections --projectors=dct-II,random --sizes=256,512 --rank_share=0.25

writes <out>.json and <out>.md, and prints the table.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optlab.transforms.low_rank import Projector, get_projector

__all__ = ["measure", "table"]

BASELINE = "svd"
_SAMPLE_SECONDS = 0.02
_FEWEST_SAMPLES = 3


def _work(projector: Projector, size: int, rank: int) -> dict[str, Callable[[], Any]]:
    """What is timed: a new basis for a gradient, and the gradient's coordinates in a basis."""
    rng = np.random.default_rng(0)
    gradient = jnp.asarray(rng.normal(0.0, 0.02, (size, size)), jnp.float32)
    key = jax.random.key(0)

    @jax.jit
    def refresh(gradient, kept):
        return projector.fit(gradient, rank, kept, key)

    @jax.jit
    def project(gradient, kept):
        return projector.matrix(kept, size, gradient.dtype).T @ gradient

    kept = refresh(gradient, projector.init(size, rank, gradient.dtype))
    return {
        "refresh": lambda: refresh(gradient, kept),
        "project": lambda: project(gradient, kept),
    }


def _seconds(work: Callable[[], Any], clock: Callable[[], float], calls: int) -> float:
    start, result = clock(), None
    for _ in range(calls):
        result = work()
    jax.block_until_ready(result)
    return (clock() - start) / calls


def measure(
    projectors: Sequence[str],
    *,
    sizes: Sequence[int],
    rank_share: float,
    repeats: int,
    seconds: float,
) -> dict[str, Any]:
    """Times projectors in turns on the same normal gradients, size by size.

    On CPU the clock is that of the process, all threads together, which a busy machine stretches
    less than the wall's: only threads that spin while they wait. Elsewhere it is the wall's.

    Args:
        projectors: names that ``get_projector`` knows, the baseline among them.
        sizes: rows and columns of the gradients.
        rank_share: the rank over the size.
        repeats: rounds, of one sample of each figure.
        seconds: the most time that the samples of one figure take, beyond the first three.

    Returns:
        What ``json.dump`` can write: the circumstances, and a row a size and projector.
    """
    on_cpu = jax.devices()[0].platform == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    rows = []
    for size in sizes:
        rank = max(1, round(rank_share * size))
        works = {
            (name, what): work
            for name in [BASELINE, *(p for p in projectors if p != BASELINE)]
            for what, work in _work(get_projector(name), size, rank).items()
        }
        calls, samples = {}, {}
        for label, work in works.items():
            jax.block_until_ready(work())
            once = max(_seconds(work, clock, 1), 1e-6)
            calls[label] = max(1, round(_SAMPLE_SECONDS / once))
            affordable = int(seconds / (once * calls[label]))
            samples[label] = min(repeats, max(_FEWEST_SAMPLES, affordable))
        times = {label: [] for label in works}
        for turn in range(repeats):
            for label, work in works.items():
                if turn * samples[label] % repeats < samples[label]:
                    times[label].append(_seconds(work, clock, calls[label]))
        for name in projectors:
            row = {"size": size, "rank": rank, "projector": name}
            for what in ("refresh", "project"):
                lower, median, upper = np.percentile(times[name, what], [25, 50, 75]).tolist()
                row[what] = {"median": median, "lower": lower, "upper": upper}
                row[f"{what}_samples"] = samples[name, what]
                row[f"{what}_ratio"] = float(np.median(times[BASELINE, what])) / median
            rows.append(row)
            print(f"{name} at {size}: {1e3 * row['refresh']['median']:.3g} ms", file=sys.stderr)
    return {
        "benchmark": "projections",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
        },
        "platform": jax.devices()[0].platform,
        "device": jax.devices()[0].device_kind,
        "cpu_count": os.cpu_count(),
        "clock": "CPU time of all threads" if on_cpu else "wall time",
        "baseline": BASELINE,
        "repeats": repeats,
        "seconds": seconds,
        "rows": rows,
    }


def table(result: Mapping[str, Any]) -> str:
    """Writes a result as Markdown.

    Args:
        result: what :func:`measure` gave.

    Returns:
        A paragraph on the circumstances, and a line a size and projector.
    """
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    machine = (
        f"{result['cpu_count']} CPU cores" if result["platform"] == "cpu" else result["device"]
    )
    baseline = result["baseline"]
    lines = [
        f"A projector's new basis for an n x n float32 gradient, and the gradient's coordinates in "
        f"it, on {machine}, {result['date'][:10]}: {result['clock']} in ms, medians and "
        f"[quartiles] of up to {result['repeats']} samples, taken in turns. {versions}.",
        "",
        f"| n | rank | projector | refresh | {baseline} / it | project | {baseline} / it |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        cells = [row["size"], row["rank"], f"`{row['projector']}`"]
        for what in ("refresh", "project"):
            spread = [f"{1e3 * row[what][q]:.3g}" for q in ("median", "lower", "upper")]
            cells += ["{} [{}, {}]".format(*spread), f"{row[f'{what}_ratio']:.3g}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _sizes(text: str) -> list[int]:
    sizes = [int(size) for size in text.split(",")]
    if min(sizes) < 2:
        raise ValueError
    return sizes


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and reports; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.projections",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    device = jax.devices()[0].device_kind.lower().replace(" ", "_")
    default = f"benchmarks/results/projections_{device}"
    parser.add_argument("--projectors", default="dct-II,dct-III", help="beside the SVD")
    parser.add_argument("--sizes", type=_sizes, default="256,512,1024,2048", help="rows = columns")
    parser.add_argument("--rank_share", type=float, default=0.125, help="the rank over the size")
    parser.add_argument("--repeats", type=int, default=25, help="samples of each figure")
    parser.add_argument("--seconds", type=float, default=20.0, help="most time of a figure")
    parser.add_argument("--out", type=pathlib.Path, default=default, help="stem of the two files")
    flags = parser.parse_args(argv)
    if not 0 < flags.rank_share < 1:
        parser.error(f"--rank_share must lie in (0, 1), got {flags.rank_share}.")
    if flags.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {flags.repeats}.")
    names = list(dict.fromkeys([BASELINE, *flags.projectors.split(",")]))
    try:
        for name in names:
            get_projector(name)
        flags.out.parent.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    result = measure(
        names,
        sizes=flags.sizes,
        rank_share=flags.rank_share,
        repeats=flags.repeats,
        seconds=flags.seconds,
    )
    flags.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    flags.out.with_suffix(".md").write_text(table(result), "utf-8")
    print(table(result))
    print(f"Wrote {flags.out}.json and .md.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
