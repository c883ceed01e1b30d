"""Trains what a config says, or goes on where that was stopped.

  python -m experiments.train
  python -m experiments.train --config=experiments/configs/digits.py:cnn --workdir=runs/digits_cnn
  python -m experiments.train --config=experiments/configs/sign_lion_k_digits.py:nuclear,seed=1 \\
      --config.optimizer.learning_rate=0.02 --config.optimizer.arguments.b1=0.9

On several machines, or in several processes of one, each runs the same command with its number:

  python -m experiments.train --config=... --config.mesh.data=8 \\
      --coordinator=host:1234 --num_processes=2 --process_id=0

The same command on the same workdir resumes; a finished run is left as it is. Exit codes: 0 done,
1 the disk is full or the like, 2 a mistake in the command, 3 diverged, 128 + the signal (143 after
SIGTERM) saved and to be resumed.
"""

import argparse
import ast
import pathlib
import re
import signal
import sys

from absl import app, flags
from ml_collections import config_flags

_CONFIGS = pathlib.Path(__file__).parent / "configs"
_DEFAULT = _CONFIGS / "digits.py"

_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is kept; runs/<config> by default.")
_LIST = flags.DEFINE_bool("list", False, "List the configs and exit.")

_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, if there are more."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Their number.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "The number of this one.", lower_bound=0)


class _ArgumentsParser(flags.ArgumentParser):
    """Parses --config.optimizer.arguments="{'b1': 0.9}", which replaces all arguments."""

    syntactic_help = "a Python dict"

    def parse(self, argument):
        try:
            return dict(ast.literal_eval(argument) if isinstance(argument, str) else argument)
        except (SyntaxError, TypeError, ValueError):
            raise ValueError("it must be a dict, such as {'b1': 0.9}") from None


def _parse_flags(argv):
    """Parses the command line; a mistake in it ends the program with one sentence."""
    from optlab import training

    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", default=str(_DEFAULT))
    spec = finder.parse_known_args(argv[1:])[0].config
    config_flags.register_flag_parser_for_type(training.Arguments, _ArgumentsParser())
    try:
        # config_flags reports these mistakes by traceback, so look for them first.
        config = training.load_config(spec)
        for name in re.findall(r"^--?config\.([^=]+)", "\n".join(argv), re.MULTILINE):
            training.field_type(config, name)
        config_flags.DEFINE_config_file(
            "config",
            str(_DEFAULT),
            "A file that defines get_config(variant); file.py:variant,field=value selects.",
            lock_config=False,
            accept_new_attributes=True,  # new names in optimizer.arguments
            sys_argv=argv,
        )
        return flags.FLAGS(argv)
    except (training.ConfigError, flags.Error) as error:
        _refuse(error)


def _refuse(error):
    print(" ".join(str(error).split()), file=sys.stderr)
    sys.exit(2)


def _connect():
    """Joins the processes of a run; returns whether this one speaks for them."""
    import jax

    if _COORDINATOR.value is None:
        return True
    if None in (_NUM_PROCESSES.value, _PROCESS_ID.value):
        _refuse("flag --coordinator needs --num_processes and --process_id.")
    if _PROCESS_ID.value >= _NUM_PROCESSES.value:
        _refuse(f"flag --process_id must be below --num_processes, got {_PROCESS_ID.value}.")
    try:
        jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    except (RuntimeError, ValueError) as error:
        _refuse(f"flag --coordinator={_COORDINATOR.value} is of no use: {error}")
    return _PROCESS_ID.value == 0


def _list_configs():
    for file in sorted(_CONFIGS.glob("*.py")):
        doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
        print(f"{file.stem:24} {doc.splitlines()[0]}")


def main(argv):
    from optlab import training

    if argv[1:]:
        _refuse(f"argument {argv[1]!r} is not a flag.")
    if _LIST.value:
        return _list_configs()
    training.quiet_logs()
    speaks = _connect()
    path, _, variant = flags.FLAGS["config"].config_filename.partition(":")
    name = re.sub(r"\W+", "_", f"{pathlib.Path(path).stem} {variant}".strip())
    try:
        result = training.train(flags.FLAGS.config, _WORKDIR.value or pathlib.Path("runs", name))
    except training.ConfigError as error:
        _refuse(error)
    except training.StorageError as error:
        print(error, file=sys.stderr)
        return 1
    if speaks:
        _tell(result)
    return {"done": 0, "diverged": 3, "preempted": 128 + result.signum}[result.status]


def _tell(result):
    """Says how a run ended, in one sentence."""
    if result.status == "diverged":
        print(result.sentence, file=sys.stderr)
    elif result.status == "preempted":
        print(f"Stopped at step {result.step:,}, saved; the same command goes on.")
    else:
        print(f"{result.sentence} See {result.workdir / 'report.md'}.")


if __name__ == "__main__":
    signal.signal(
        signal.SIGTERM, lambda signum, _: sys.exit(128 + signum)
    )  # from the first import on
    app.run(main, flags_parser=_parse_flags)
