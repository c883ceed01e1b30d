"""Metrics: the lines of JSON are the truth, and TensorBoard's files say the same."""

import json
import logging
import math
import os
import struct
import sys

import pytest
from absl import logging as absl_logging

from optlab import training
from optlab.training import StorageError
from optlab.training._metrics import Metrics, _is_worth_a_line


def events(folder):
    """The scalars of TensorBoard's files, as (step, {name: value})."""
    from tensorboardX.proto import event_pb2

    found = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            if event.summary.value:
                found.append((event.step, {v.tag: v.simple_value for v in event.summary.value}))
    return found


def records(steps):
    return [{"step": step, "train_loss": 1.0 / step, "skipped": 0} for step in steps]


def test_both_files_forget_what_the_run_will_do_again(tmp_path):
    pytest.importorskip("tensorboardX")
    metrics = Metrics(tmp_path, 0, 10)
    for record in records(range(1, 8)):
        metrics.write(record)
    metrics.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8')
    seen = []
    metrics = Metrics(tmp_path, 5, 10, seen.append)
    for record in records([6, 7]):
        metrics.write(record)
    metrics.write({"step": 9, "train_loss": math.nan})
    metrics.close()
    lines = training.read_metrics(tmp_path / "metrics.jsonl")
    assert lines[:7] == records(range(1, 8))
    assert str(seen) == str(metrics.records[5:])
    shown = events(tmp_path / "tb")
    assert [step for step, _ in shown] == [*range(1, 8), 9]
    for (step, values), record in zip(shown, lines, strict=True):
        assert step == record.pop("step")
        assert values == pytest.approx(record, nan_ok=True)


def test_tensorboard_is_optional(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    metrics = Metrics(tmp_path, 0, 10)
    metrics.write({"step": 1, "train_loss": 2.0})
    metrics.close()
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_full_disk_is_one_sentence(tmp_path):
    metrics = Metrics(tmp_path, 0, 10)
    metrics._lines._file.close()
    metrics._lines._file = open("/dev/full", "a")  # noqa: SIM115
    with pytest.raises(StorageError, match=r"metrics.jsonl cannot be written: No space left .*\.$"):
        metrics.write({"step": 1, "train_loss": 2.0})
    metrics.close()


@pytest.mark.parametrize(
    ("path", "level", "kept"),
    [
        ("/x/optlab/training/_metrics.py", logging.INFO, True),
        ("/x/orbax/checkpoint/x.py", logging.ERROR, False),  # raised as well
        ("/x/jax/y.py", logging.INFO, False),
        ("/x/jax/y.py", logging.WARNING, True),
    ],
)
def test_log_lines_that_are_kept(path, level, kept):
    record = absl_logging.get_absl_logger().makeRecord("absl", level, path, 1, "m", (), None)
    assert _is_worth_a_line(record) == kept


def test_read_metrics_leaves_out_a_cut_line(tmp_path):
    file = tmp_path / "m.jsonl"
    file.write_text(json.dumps({"step": 1}) + '\n{"step"')
    assert training.read_metrics(file) == [{"step": 1}]
