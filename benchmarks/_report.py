"""The table and the plot of a benchmark's JSON."""

import pathlib
from collections.abc import Mapping
from typing import Any

__all__ = ["plot", "table"]


def table(result: Mapping[str, Any]) -> str:
    """Writes a result as Markdown, the fastest method first.

    Args:
        result: what :func:`benchmarks._measure.measure` gave.

    Returns:
        A paragraph on the circumstances, a table, and notes on single methods.
    """
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"One optimizer step and `apply_updates` on {_machine(result)}, {result['date'][:10]}: "
        f"{result['parameters']:,} float32 parameters in {result['leaves']} leaves, "
        "fixed gradients; jitted, parameters and state donated. Medians and [quartiles] of "
        f"{result['repeats']} samples a method, taken in turns. {versions}.",
        "",
        f"| method | ns/param | x {result['baseline']} | state bytes/param | temp bytes/param |",
        "|---|---|---|---|---|",
    ]
    for row in _ordered(result):
        cells = (
            f"`{row['method']}`",
            _spread(row["ns_per_parameter"]),
            _spread(row["ratio"]),
            _number(row["state_bytes_per_parameter"]),
            _number(row["temp_bytes_per_parameter"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    for note, names in _notes(result).items():
        lines += ["", f"{', '.join(f'`{name}`' for name in names)}: {note}."]
    return "\n".join(lines) + "\n"


def plot(result: Mapping[str, Any], path: pathlib.Path) -> None:
    """Draws time, state and temporaries a parameter, side by side, one method a line.

    Args:
        result: what :func:`benchmarks._measure.measure` gave.
        path: the image to write.
    """
    # Imported here, for matplotlib is an extra; a figure without pyplot needs no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    rows = _ordered(result)
    places = range(len(rows))
    colours = [_colour(row["method"], result["baseline"]) for row in rows]
    figure = Figure(figsize=(11, 1.7 + 0.42 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    time, state, temp = figure.subplots(1, 3, sharey=True, width_ratios=(2.2, 1, 1))

    for place, row, colour in zip(places, rows, colours, strict=True):
        span = row["ns_per_parameter"]
        time.plot([span["lower"], span["upper"]], [place] * 2, color=colour, lw=5, alpha=0.35)
        time.plot(span["median"], place, "o", color=colour, ms=8)
        time.annotate(
            f"{_number(span['median'])}   x {_number(row['ratio']['median'])}",
            (span["upper"], place),
            (8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
        if row["method"] == result["baseline"]:
            time.axvline(span["median"], color=colour, lw=1, ls=":", zorder=0)
    time.set_xscale("log")
    low = min(row["ns_per_parameter"]["lower"] for row in rows)
    high = max(row["ns_per_parameter"]["upper"] for row in rows)
    # The right third is for the figures that stand beside the dots.
    time.set_xlim(low / 1.3, 1.3 * high * max(1.7, (high / low) ** 0.5))
    subs = (1, 2, 5) if high < 30 * low else (1,)
    time.xaxis.set_major_locator(LogLocator(subs=subs))
    time.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    time.xaxis.set_minor_formatter(NullFormatter())
    time.set_yticks(places, [row["method"].replace("(", "\n(", 1) for row in rows])
    time.set_ylim(len(rows) - 0.5, -0.5)
    time.set_title(f"time, ns/parameter   x {result['baseline']}", loc="left", fontsize=10)

    for axes, key, title in (
        (state, "state_bytes_per_parameter", "state, bytes/parameter"),
        (temp, "temp_bytes_per_parameter", "temp, bytes/parameter"),
    ):
        values = [row[key] for row in rows]
        bars = axes.barh(places, values, color=colours, height=0.55)
        axes.bar_label(bars, [_number(value) for value in values], padding=3, fontsize=8)
        axes.set_xlim(0, 1.25 * max(*values, 1))
        axes.set_title(title, loc="left", fontsize=10)
    for axes in (time, state, temp):
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
    millions = f"{result['parameters'] / 1e6:.3g}"
    figure.suptitle(
        f"What a step costs: {millions} million parameters on {_machine(result)}", ha="left", x=0.01
    )
    figure.savefig(path, dpi=150)


def _ordered(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(result["rows"], key=lambda row: row["ns_per_parameter"]["median"])


def _notes(result: Mapping[str, Any]) -> dict[str, list[str]]:
    """The methods that each note is of."""
    found: dict[str, list[str]] = {}
    for row in _ordered(result):
        if row["note"]:
            found.setdefault(row["note"], []).append(row["method"])
        if row["samples"] < result["repeats"]:
            fewer = f"{row['samples']} samples, to stay within {result['seconds']:g} s"
            found.setdefault(fewer, []).append(row["method"])
    return found


def _machine(result: Mapping[str, Any]) -> str:
    if result["platform"] == "cpu":
        return f"{result['cpu_count']} CPU cores"
    return result["device"]


def _colour(method: str, baseline: str) -> str:
    if method == baseline:
        return "#555555"
    return "#d9622b" if method.startswith("optlab.") else "#3b7bbf"


def _spread(quartiles: Mapping[str, float]) -> str:
    return "{} [{}, {}]".format(*(_number(quartiles[q]) for q in ("median", "lower", "upper")))


def _number(value: float) -> str:
    """Three digits, and never an exponent for the sizes met here."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 5e-4 else "0"
