"""What the commands that run one config have in common: flags, mistakes, exit codes."""

import argparse
import ast
import pathlib
import re
import sys

from absl import flags
from ml_collections import config_flags

CONFIGS = pathlib.Path(__file__).parent / "configs"

_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is kept; runs/<config> by default.")
_LIST = flags.DEFINE_bool("list", False, "List the configs and exit.")


class _ArgumentsParser(flags.ArgumentParser):
    """Parses --config.optimizer.arguments="{'b1': 0.9}", which replaces all arguments."""

    syntactic_help = "a Python dict"

    def parse(self, argument):
        try:
            return dict(ast.literal_eval(argument) if isinstance(argument, str) else argument)
        except (SyntaxError, TypeError, ValueError):
            raise ValueError("it must be a dict, such as {'b1': 0.9}") from None


def parse_flags(argv, default, kind):
    """Parses a command line; a mistake in it ends the program with one sentence.

    Args:
        argv: of the program.
        default: the file of the config to run when none is named.
        kind: gives the class of the configs, once optlab may be imported.

    Returns:
        The arguments that are no flags.
    """
    from optlab import training

    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", default=str(default))
    spec = finder.parse_known_args(argv[1:])[0].config
    config_flags.register_flag_parser_for_type(training.Arguments, _ArgumentsParser())
    try:
        # config_flags reports these mistakes by traceback, so look for them first.
        config = training.load_config(spec, kind())
        for name in re.findall(r"^--?config\.([^=\n]+)", "\n".join(argv), re.MULTILINE):
            training.field_type(config, name)
        config_flags.DEFINE_config_file(
            "config",
            str(default),
            "A file that defines get_config(variant); file.py:variant,field=value selects.",
            lock_config=False,
            accept_new_attributes=True,  # new names in arguments
            sys_argv=argv,
        )
        for flag in ("config", "workdir", "list"):  # --help shows those of the main module alone
            flags.FLAGS.register_key_flag_for_module(argv[0], flags.FLAGS[flag])
        return flags.FLAGS(argv)
    except (training.ConfigError, flags.Error) as error:
        refuse(error)


def refuse(error):
    """Ends the program over a mistake in its command."""
    print(" ".join(str(error).split()), file=sys.stderr)
    sys.exit(2)


def main(argv, run, is_ours, connect=lambda: True):
    """Runs the config of the flags.

    Args:
        argv: what is left of the command line.
        run: (config, workdir) -> result.
        is_ours: whether the stem of a config's file is one for ``run``.
        connect: joins the processes of a run, and tells whether this one speaks for them.

    Returns:
        The exit code.
    """
    from optlab import training

    if argv[1:]:
        refuse(f"argument {argv[1]!r} is not a flag.")
    if _LIST.value:
        return _list_configs(is_ours)
    training.quiet_logs()
    speaks = connect()
    path, _, variant = flags.FLAGS["config"].config_filename.partition(":")
    name = re.sub(r"\W+", "_", f"{pathlib.Path(path).stem} {variant}".strip())
    try:
        result = run(flags.FLAGS.config, _WORKDIR.value or pathlib.Path("runs", name))
    except training.ConfigError as error:
        refuse(error)
    except training.StorageError as error:
        print(error, file=sys.stderr)
        return 1
    if speaks:
        _tell(result)
    return {"done": 0, "diverged": 3, "preempted": 128 + result.signum}[result.status]


def _list_configs(is_ours):
    files = [file for file in sorted(CONFIGS.glob("*.py")) if is_ours(file.stem)]
    width = max(len(file.stem) for file in files)
    for file in files:
        doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
        print(f"{file.stem:{width}} {doc.splitlines()[0]}")


def _tell(result):
    """Says how a run ended, in one sentence."""
    if result.status == "diverged":
        print(result.sentence, file=sys.stderr)
    elif result.status == "preempted":
        print(f"Stopped at step {result.step:,}, saved; the same command goes on.")
    else:
        print(f"{result.sentence} See {result.workdir / 'report.md'}.")
