"""What a run found, in words and as curves."""

import json
import math
import os
import pathlib
from typing import Any

from optlab.training._config import TrainConfig
from optlab.training._curves import plot_curves
from optlab.training._workdir import storing, write_text

__all__ = ["write_report"]


def write_report(config: TrainConfig, result: Any, workdir: str | os.PathLike) -> pathlib.Path:
    """Writes ``report.md`` and ``curves.png`` of a finished run.

    Args:
        config: of the run.
        result: its :class:`optlab.training.Result`.
        workdir: its folder.

    Returns:
        The path of the report.
    """
    workdir = pathlib.Path(workdir)
    name = config.optimizer.name
    with storing(workdir / "curves.png"):
        plot_curves({name: result.metrics_path}, workdir / "curves.png")
    manifest = json.loads((workdir / "manifest.json").read_text(encoding="utf-8"))
    rows = {
        "test accuracy": f"{result.test_accuracy:.2%}",
        "test loss": f"{result.test_loss:.4f}",
        "training loss": f"{result.train_loss:.4f}",
        "steps per second": f"{result.steps_per_second:,.0f}",
        "optimizer state": f"{result.state_bytes_per_parameter:.2f} bytes a parameter",
        "parameters": f"{result.parameters:,}",
        "wall time": f"{result.seconds:.1f} s",
        "device": manifest["device"],
    }
    if math.isnan(result.test_accuracy):  # a regression
        del rows["test accuracy"]
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    file = workdir / "report.md"
    write_text(
        file,
        f"{result.sentence}\n\n"
        "![training loss and test accuracy over the steps](curves.png)\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        f"To run it again:\n\n```sh\n{manifest['command']}\n```\n\n"
        f"Its config:\n\n```json\n{(workdir / 'config.json').read_text(encoding='utf-8')}```\n",
    )
    return file
