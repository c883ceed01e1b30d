"""The figures of a run: lines of JSON, the same for TensorBoard, and a bar on a terminal."""

import contextlib
import importlib.util
import json
import logging as python_logging
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl import logging

from optlab.training._workdir import storing, write_text

__all__ = ["Lines", "Metrics", "quiet_logs", "read_metrics"]

_FLUSH_SECONDS = 5.0  # of the events, through to the disk: some milliseconds


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads a ``metrics.jsonl``.

    Args:
        path: of the file.

    Returns:
        One dict a line, each with a ``step``; none if there is no file. A last line that a kill cut
        short is left out.

    >>> read_metrics("no/such/metrics.jsonl")
    []
    """
    file = pathlib.Path(path)
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def quiet_logs() -> None:
    """Keeps absl's log to warnings and our own lines.

    Orbax writes dozens of lines a checkpoint, and hundreds of an error that it raises as well.

    >>> quiet_logs()
    """
    logging.get_absl_handler().addFilter(_is_worth_a_line)


def _is_worth_a_line(record: python_logging.LogRecord) -> bool:
    if "/orbax/" in record.pathname:
        return False
    return record.levelno >= python_logging.WARNING or "/optlab/training/" in record.pathname


class Lines:
    """Appends records to a file, a line of JSON each.

    Args:
        path: of the file; lines beyond ``start`` are dropped, as the run will write them again.
        start: the step that the run goes on from.

    Attributes:
        records: all of the file.
    """

    def __init__(self, path: pathlib.Path, start: int):
        self._path = path
        self.records = [r for r in read_metrics(path) if r["step"] <= start]
        write_text(path, "".join(json.dumps(r) + "\n" for r in self.records))
        with storing(path):
            self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Appends a line; ``record`` has a ``step``."""
        self.records.append(record)
        with storing(self._path):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):  # that of a write, which was raised there
            self._file.close()


class Metrics:
    """Writes the figures of a run to ``metrics.jsonl``, the source of truth, and shows progress.

    Beside it, ``tb/`` has the same for TensorBoard where tensorboardX is installed.

    Args:
        folder: of the run; lines beyond ``start`` are dropped, as the run will write them again.
        start: the step that the run goes on from.
        steps: the step at which it ends.
        on_record: called with each record once it is written.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        start: int,
        steps: int,
        on_record: Callable[[dict[str, Any]], None] | None = None,
    ):
        path = pathlib.Path(folder, "metrics.jsonl")
        self._lines = self._events = self._bar = None
        self._on_record = on_record
        if jax.process_index():  # of several processes of a run the first writes
            self.records = [r for r in read_metrics(path) if r["step"] <= start]
            return
        self._lines = Lines(path, start)
        self.records = self._lines.records
        if importlib.util.find_spec("tensorboardX"):
            self._events = _Events(path.with_name("tb"), self.records)
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(initial=start, total=steps, unit="step", leave=None)

    def write(self, record: dict[str, Any]) -> None:
        """Appends a line; ``record`` has a ``step``."""
        if self._lines is not None:
            self._lines.write(record)
            self._show(record)
        else:
            self.records.append(record)
        if self._events is not None:
            self._events.write(record)
        if self._on_record is not None:
            self._on_record(record)

    def _show(self, record: Mapping[str, Any]) -> None:
        shown = {name: f"{value:.4g}" for name, value in record.items() if name != "step"}
        if self._bar is None:
            logging.info("step %d: %s", record["step"], ", ".join(map(" ".join, shown.items())))
            return
        shown = {name: text for name, text in shown.items() if name.startswith(("train_", "test_"))}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(record["step"] - self._bar.n)

    def close(self) -> None:
        """Closes the files and the bar."""
        if self._lines is not None:
            self._lines.close()
        if self._events is not None:
            self._events.close()
        if self._bar is not None:
            self._bar.close()


class _Events:
    """The same records as TensorBoard reads them, without tensorboardX's thread.

    That thread dies of a full disk, and its caller then waits for it.
    """

    def __init__(self, folder: pathlib.Path, records: list[dict[str, Any]]):
        from tensorboardX import event_file_writer
        from tensorboardX.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._folder, self._flushed = folder, time.monotonic()
        with storing(folder):
            if folder.exists():  # its figures may go beyond the records
                shutil.rmtree(folder)
            folder.mkdir()
            self._writer = event_file_writer.EventsWriter(str(folder / "events"))
        for record in records:
            self.write(record)

    def write(self, record: Mapping[str, Any]) -> None:
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in record.items()
            if name != "step"
        ]
        event = self._event(
            wall_time=time.time(), step=record["step"], summary=self._summary(value=values)
        )
        with storing(self._folder):
            self._writer.write_event(event)
            if time.monotonic() > self._flushed + _FLUSH_SECONDS:
                self._writer.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.close()
