"""What a run found, in words and as curves."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence

from optlab.training._curves import plot_curves
from optlab.training._result import Result, RunResult
from optlab.training._workdir import storing, write_text

__all__ = ["training_rows", "write_report"]


def write_report(
    result: RunResult,
    rows: Mapping[str, str],
    metrics: Sequence[str] = ("train_loss", "test_accuracy"),
) -> pathlib.Path:
    """Writes ``report.md`` and ``curves.png`` of a finished run into its workdir.

    Args:
        result: of the run.
        rows: of its table, by what they tell.
        metrics: the figures to draw.

    Returns:
        The path of the report.
    """
    workdir = result.workdir
    with storing(workdir / "curves.png"):
        plot_curves({result.method: result.metrics_path}, workdir / "curves.png", metrics)
    manifest = json.loads((workdir / "manifest.json").read_text(encoding="utf-8"))
    rows = {
        **rows,
        "steps per second": f"{result.steps_per_second:,.0f}",
        "wall time": f"{result.seconds:.1f} s",
        "device": manifest["device"],
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    drawn = " and ".join(name.replace("_", " ") for name in metrics)
    file = workdir / "report.md"
    write_text(
        file,
        f"{result.sentence}\n\n"
        f"![{drawn} over the steps](curves.png)\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        f"To run it again:\n\n```sh\n{manifest['command']}\n```\n\n"
        f"Its config:\n\n```json\n{(workdir / 'config.json').read_text(encoding='utf-8')}```\n",
    )
    return file


def training_rows(result: Result) -> dict[str, str]:
    """Gives what the table tells of a training run."""
    rows = {
        "test accuracy": f"{result.test_accuracy:.2%}",
        "test loss": f"{result.test_loss:.4f}",
        "training loss": f"{result.train_loss:.4f}",
        "optimizer state": f"{result.state_bytes_per_parameter:.2f} bytes a parameter",
        "parameters": f"{result.parameters:,}",
    }
    if math.isnan(result.test_accuracy):  # a regression
        del rows["test accuracy"]
    return rows
