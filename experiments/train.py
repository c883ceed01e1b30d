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

import functools

from absl import app, flags

from experiments import _command
from experiments._sigterm import exit_on_sigterm

_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, if there are more."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Their number.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "The number of this one.", lower_bound=0)


def _connect():
    """Joins the processes of a run; returns whether this one speaks for them."""
    import jax

    if _COORDINATOR.value is None:
        return True
    if None in (_NUM_PROCESSES.value, _PROCESS_ID.value):
        _command.refuse("flag --coordinator needs --num_processes and --process_id.")
    if _PROCESS_ID.value >= _NUM_PROCESSES.value:
        _command.refuse(
            f"flag --process_id must be below --num_processes, got {_PROCESS_ID.value}."
        )
    try:
        jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    except (RuntimeError, ValueError) as error:
        _command.refuse(f"flag --coordinator={_COORDINATOR.value} is of no use: {error}")
    return _PROCESS_ID.value == 0


def _kind():
    from optlab import training

    return training.TrainConfig


def main(argv):
    from optlab import training

    return _command.main(
        argv, training.train, lambda stem: not stem.startswith("bilevel_"), _connect
    )


if __name__ == "__main__":
    exit_on_sigterm()
    parse = functools.partial(
        _command.parse_flags, default=_command.CONFIGS / "digits.py", kind=_kind
    )
    app.run(main, flags_parser=parse)
