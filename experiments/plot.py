"""Draws runs or sweeps beside each other, from their metrics.jsonl.

  python -m experiments.plot runs/a runs/b --out=plot.png
  python -m experiments.plot runs/lion_vs_adamw --metrics=train_loss,test_loss --over=seconds

A sweep is drawn as the best point of each method, with the spread of its seeds. The same figures go
into a table beside the picture, plot.csv.
"""

import pathlib
import sys

from absl import app, flags

_OUT = flags.DEFINE_string("out", "plot.png", "The picture; its suffix gives the format.")
_METRICS = flags.DEFINE_list(
    "metrics", ["train_loss", "test_accuracy"], "Figures of metrics.jsonl, a panel each."
)

_OVER = flags.DEFINE_enum(
    "over", "step", ["step", "seconds"], "The abscissa; seconds are those of the steps alone."
)


def _parse_flags(argv):
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


def main(argv):
    from optlab import training

    out = pathlib.Path(_OUT.value)
    try:
        if not argv[1:]:
            raise training.ConfigError("no workdir is given: name one run or sweep at least.")
        runs = training.find_runs(argv[1:])
        known = {
            name
            for files in runs.values()
            for file in files
            for record in training.read_metrics(file)
            for name in record
        }
        for name in _METRICS.value:
            if name not in known:
                told = ", ".join(sorted(known - {"step"}))
                raise training.ConfigError(
                    f"metric {name!r} is in none of the runs; there is {told}."
                )
        training.plot_curves(runs, out, _METRICS.value, _OVER.value)
        training.write_curves(runs, out.with_suffix(".csv"), _METRICS.value)
    except (training.ConfigError, ValueError) as error:  # the latter of an unknown suffix
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"flag --out={out} cannot be written: {error.strerror}.", file=sys.stderr)
        return 2
    print(f"{len(runs)} curves are in {out}, their figures in {out.with_suffix('.csv')}.")
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
