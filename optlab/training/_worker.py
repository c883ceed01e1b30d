"""What works off the cells of a sweep that nobody else has."""

import contextlib
import hashlib
import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging

from optlab.training._config import ConfigError
from optlab.training._grid import Cell
from optlab.training._lanes import Lanes
from optlab.training._loop import train
from optlab.training._result import Result, recorded_result
from optlab.training._signals import Stop
from optlab.training._workdir import InUseError, Workdir

__all__ = ["Worker", "progress"]

_ENDED = ("done", "diverged")


class Worker:
    """Trains cells that nobody else has, and collects their results by name.

    Args:
        folder: of the sweep.
        lanes: how many cells share a program at most; 0 trains each by itself.
        stop: ends the work after the current step.

    Attributes:
        results: of the cells that ended, by name.
        elsewhere: how many cells another process has.
        on_steps: called now and then with the steps done since.
    """

    def __init__(self, folder: pathlib.Path, lanes: int, stop: Stop):
        self.results: dict[str, Result] = {}
        self.on_steps: Callable[[int], object] = lambda count: None
        self.elsewhere = 0
        self._folder, self._lanes, self._stop = folder, lanes, stop

    def work_off(self, cells: Sequence[Cell]) -> None:
        """Trains all cells, but for those that ended and those of other processes."""
        kinds: dict[Any, list[Cell]] = {}
        for cell in cells:
            if not self._collected(cell):
                kinds.setdefault(cell.kind, []).append(cell)
        for kind in kinds.values():
            config = kind[0].config
            if not self._lanes or config.mesh.data * config.mesh.fsdp > 1:
                self._in_turn(kind)
                continue
            lanes = Lanes(config)
            for chunk in np.array_split(np.arange(len(kind)), math.ceil(len(kind) / self._lanes)):
                if not self._stop.signum:
                    self._side_by_side(lanes, [kind[i] for i in chunk])

    def _workdir(self, cell: Cell) -> Workdir:
        return Workdir(self._folder / "cells" / cell.name, cell.config)

    def _collected(self, cell: Cell) -> bool:
        result = recorded_result(self._workdir(cell), *_ENDED)
        if result is None:
            return False
        self.results[cell.name] = result
        self.on_steps(cell.config.steps)
        return True

    def _side_by_side(self, lanes: Lanes, cells: Sequence[Cell]) -> None:
        """Trains cells in one program."""
        configs = json.dumps([self._workdir(cell).config for cell in cells])
        folder = self._folder / "running" / hashlib.sha256(configs.encode()).hexdigest()[:12]
        with contextlib.ExitStack() as locks:
            runs = []
            try:
                for cell in cells:
                    workdir = self._workdir(cell)
                    locks.enter_context(workdir.lock())
                    runs.append((workdir, cell.config, cell.numbers))
            except InUseError:
                self.elsewhere += len(cells)
                return
            if any(recorded_result(workdir, *_ENDED) for workdir, _, _ in runs):
                locks.close()  # another process was faster
                self.work_off(cells)
                return
            try:
                results = lanes.train(runs, folder, self._stop, self.on_steps)
            except ConfigError as error:
                logging.warning("%s: its cells are trained in turn.", error)
                results = None
        if results is None:
            self._in_turn(cells)
        else:
            self.results |= {c.name: r for c, r in zip(cells, results, strict=False)}

    def _in_turn(self, cells: Sequence[Cell]) -> None:
        """Trains cells one by one."""
        for cell in cells:
            if self._stop.signum:
                return
            try:
                result = train(cell.config, self._folder / "cells" / cell.name)
            except InUseError:
                self.elsewhere += 1
                continue
            if result.signum:
                self._stop.signum = result.signum
                return
            self.results[cell.name] = result
            self.on_steps(cell.config.steps)


@contextlib.contextmanager
def progress(steps: int) -> Iterator[Callable[[int], object]]:
    """A bar over the steps of all cells, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=steps, unit="step", unit_scale=True, desc="sweep") as bar:
        yield bar.update
