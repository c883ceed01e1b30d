"""Signals that stop a run between two steps."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

__all__ = ["Stop", "noting_signals"]


@dataclasses.dataclass
class Stop:
    """What a run is to stop for."""

    noted: int = 0  # the first signal of this process
    signum: int = 0  # the signal that all processes of the run know of

    def agree(self) -> None:
        """Tells all processes of the run: one that stopped alone would leave the others waiting."""
        if jax.process_count() > 1:
            signals = multihost_utils.process_allgather(np.int32(self.noted))
            self.signum = int(signals.max())


@contextlib.contextmanager
def noting_signals() -> Iterator[Stop]:
    """Notes the first SIGTERM or SIGINT instead of dying of it."""
    stop, alone = Stop(), jax.process_count() == 1

    def note(signum, frame):
        del frame
        stop.noted = signum
        if alone:
            stop.signum = signum
        signal.signal(signum, signal.SIG_DFL)  # the second one kills

    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python handles signals in the main thread only
        return
    previous = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
