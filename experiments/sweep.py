"""Trains a config, or several beside each other, over a grid of values and seeds.

  python -m experiments.sweep --config=experiments/configs/digits.py \\
      --grid=optimizer.learning_rate=1e-4,3e-4,1e-3,3e-3,1e-2 --seeds=3

Every method gets the same grid and thus the same budget; a value such as x0.3 multiplies the
method's own. The best point of each is then trained with seeds that had no part in the choice:

  python -m experiments.sweep --workdir=runs/lion_vs_adamw --metric=test_accuracy --fresh_seeds=3 \\
      --config=experiments/configs/fashion_mnist_vit.py:tiny \\
      --config=experiments/configs/fashion_mnist_vit.py:tiny,lion \\
      --grid=optimizer.learning_rate=x0.1,x0.3,x1,x3 \\
      --grid=optimizer.arguments.weight_decay=0.03,0.3,3.0

The same command goes on where it was stopped, and several of it share the work. Cells that differ
in numbers alone are vmapped, 16 at once. With --lanes=1 they share the program but take turns,
which is faster where one cell fills the machine, as a transformer does a CPU; with --lanes=0 each
is a run as train.py makes it. The workdir gets report.md, sweep.png, results.json and results.csv,
and a folder a cell. Exit codes are those of train.py, but that a cell may diverge.
"""

import pathlib
import re
import sys

from absl import app, flags

from experiments._sigterm import exit_on_sigterm

_CONFIGS = flags.DEFINE_multi_string(
    "config", ["experiments/configs/digits.py"], "file.py:variant,field=value; one a method."
)
_GRID = flags.DEFINE_multi_string("grid", [], "path=value,value; one an axis.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Seeds of each point, from 0 on.", lower_bound=1)
_FRESH_SEEDS = flags.DEFINE_integer(
    "fresh_seeds", 0, "Further seeds, for the best point of each method.", lower_bound=0
)
_METRIC = flags.DEFINE_string("metric", "test_loss", "What to judge by; see metrics.jsonl.")
_LANES = flags.DEFINE_integer(
    "lanes", 16, "Cells that share a program; 0 trains each by itself.", lower_bound=0
)
_WORKDIR = flags.DEFINE_string("workdir", None, "runs/sweep_<configs> by default.")


def _stem(spec):
    path, _, variant = spec.partition(":")
    return re.sub(r"\W+", "_", f"{pathlib.Path(path).stem} {variant}".strip())


def _methods(specs, training):
    """Gives the configs by label: the optimizer's name where that tells them apart."""
    configs = [training.load_config(spec) for spec in specs]
    names = [config.optimizer.name.rpartition(".")[2] for config in configs]
    labels = names if len(set(names)) == len(names) else [_stem(spec) for spec in specs]
    if len(set(labels)) < len(labels):
        raise training.ConfigError("flag --config has the same config twice.")
    return dict(zip(labels, configs, strict=True))


def _parse_flags(argv):
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


def main(argv):
    from optlab import training

    training.quiet_logs()
    default = pathlib.Path("runs", "_".join(["sweep", *map(_stem, _CONFIGS.value)])[:100])
    try:
        if argv[1:]:
            raise training.ConfigError(f"argument {argv[1]!r} is not a flag.")
        axes = [training.parse_axis(text) for text in _GRID.value]
        if len(dict(axes)) < len(axes):
            raise training.ConfigError("flag --grid has an axis twice.")
        found = training.sweep(
            _methods(_CONFIGS.value, training),
            dict(axes),
            range(_SEEDS.value),
            _WORKDIR.value or default,
            metric=_METRIC.value,
            fresh_seeds=_FRESH_SEEDS.value,
            lanes=_LANES.value,
        )
    except training.ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except training.StorageError as error:
        print(error, file=sys.stderr)
        return 1
    if found.signum:
        print("Stopped, saved; the same command goes on.")
        return 128 + found.signum
    if found.elsewhere:
        print(f"{found.elsewhere} cells are in use by another process, which will report.")
        return 0
    print(f"{found.sentence} See {training.write_sweep_report(found)}.")
    return 0


if __name__ == "__main__":
    exit_on_sigterm()
    app.run(main, flags_parser=_parse_flags)
