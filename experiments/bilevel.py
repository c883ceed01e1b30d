"""Runs a bilevel solver as a config says, or goes on where that was stopped.

  python -m experiments.bilevel
  C=experiments/configs; python -m experiments.bilevel \\
      --config=$C/bilevel_hyper_cleaning_fashion_mnist.py:few,saba --workdir=runs/few_saba
  python -m experiments.bilevel --config=$C/bilevel_hyper_cleaning_digits.py:amigo \\
      --config.outer_optimizer.learning_rate=300.0 --config.solver.arguments.inner_steps=10

The same command on the same workdir resumes; a finished run is left as it is. Exit codes are those
of train.py.
"""

import functools

from absl import app

from experiments import _command
from experiments._sigterm import exit_on_sigterm


def _kind():
    from optlab.training import bilevel

    return bilevel.BilevelConfig


def main(argv):
    from optlab.training import bilevel

    return _command.main(argv, bilevel.solve, lambda stem: stem.startswith("bilevel_"))


if __name__ == "__main__":
    exit_on_sigterm()
    parse = functools.partial(
        _command.parse_flags,
        default=_command.CONFIGS / "bilevel_hyper_cleaning_digits.py",
        kind=_kind,
    )
    app.run(main, flags_parser=parse)
