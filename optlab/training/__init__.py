"""Training: typed configs, data, models, optimizers by name, a loop that resumes exactly.

Runs need the extra ``experiments``: ``pip install "optlab[experiments]"``.
"""

from optlab.training import data, models
from optlab.training._checkpoint import Checkpoints
from optlab.training._config import (
    Arguments,
    ConfigError,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    apply_variant,
    field_type,
    load_config,
    override,
    validate,
)
from optlab.training._curves import find_runs, plot_curves, write_curves
from optlab.training._grid import Cell, Times, parse_axis
from optlab.training._loop import train
from optlab.training._metrics import quiet_logs, read_metrics
from optlab.training._registry import make_optimizer, make_schedule, optimizers
from optlab.training._result import Result, RunResult
from optlab.training._state import TrainState, state_bytes_per_parameter
from optlab.training._sweep import Sweep, Winner, sweep
from optlab.training._sweep_report import write_sweep_report
from optlab.training._watch import watch_linen, watch_nnx
from optlab.training._workdir import StorageError

__all__ = [
    "Arguments",
    "Cell",
    "Checkpoints",
    "ConfigError",
    "DataConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Result",
    "RunConfig",
    "RunResult",
    "StorageError",
    "Sweep",
    "Times",
    "TrainConfig",
    "TrainState",
    "Winner",
    "apply_variant",
    "data",
    "field_type",
    "find_runs",
    "load_config",
    "make_optimizer",
    "make_schedule",
    "models",
    "optimizers",
    "override",
    "parse_axis",
    "plot_curves",
    "quiet_logs",
    "read_metrics",
    "state_bytes_per_parameter",
    "sweep",
    "train",
    "validate",
    "watch_linen",
    "watch_nnx",
    "write_curves",
    "write_sweep_report",
]
