"""Sweeps: side by side as in turn, the same after any interruption, and shared by processes."""

import functools
import json
import math
import os
import signal
import time

import numpy as np
import pytest

from optlab import training
from optlab.training import (
    ConfigError,
    ModelConfig,
    OptimizerConfig,
    Times,
    TrainConfig,
    _grid,
    _lanes,
    _metrics,
    _pure,
    _sweep,
)
from optlab.training._workdir import Workdir

RATE, DECAY = "optimizer.learning_rate", "optimizer.arguments.weight_decay"
SMALL = TrainConfig(
    steps=20,
    batch_size=128,  # an epoch has 11 steps
    log_every=4,
    eval_every=10,
    checkpoint_every=6,
    model=ModelConfig(widths=(8,)),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
)
METHODS = {"adamw": SMALL, "lion": training.override(SMALL, {"optimizer.name": "optax.lion"})}
GRID = {RATE: [Times(0.01), Times(1)], DECAY: [0.0, 0.1]}


def sweep(workdir, methods=METHODS, grid=GRID, seeds=(0, 1), **options):
    return training.sweep(methods, grid, seeds, workdir, **options)


def records(found, name):
    """The log lines of a cell, without what depends on the machine."""
    lines = training.read_metrics(found.results[name].metrics_path)
    return [{k: v for k, v in r.items() if not k.endswith("per_second")} for r in lines]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An uninterrupted sweep side by side."""
    return sweep(tmp_path_factory.mktemp("reference"), fresh_seeds=2)


def test_cells_are_those_of_training_in_turn(reference, tmp_path):
    """Which keeps figures that differ by the order of sums, and choose the same winner."""
    methods = {"adamw": SMALL}
    turn = sweep(tmp_path, methods, {RATE: GRID[RATE], DECAY: [0.1]}, [0], lanes=0)
    assert turn.winners["adamw"].values[RATE] == reference.winners["adamw"].values[RATE] == 1e-2
    for name, result in turn.results.items():
        ours, theirs = records(reference, name), records(turn, name)
        assert [r.keys() for r in ours] == [r.keys() for r in theirs]
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-4, atol=1e-6)
        found = reference.results[name]
        assert (result.status, result.step, result.parameters) == ("done", 20, found.parameters)
        assert result.state_bytes_per_parameter == pytest.approx(
            found.state_bytes_per_parameter, rel=1e-6
        )


def test_the_winner_is_the_best_mean_and_is_judged_by_fresh_seeds(reference):
    for method, winner in reference.winners.items():
        means = {}
        for cell in reference.cells:
            if cell.method == method:
                means.setdefault(tuple(cell.values.items()), []).append(reference.scores[cell.name])
        best = min(means, key=lambda point: np.mean(means[point]))
        assert winner.values == dict(best)
        assert list(winner.scores.values()) == means[best]
        assert list(winner.fresh) == [2, 3]
        assert winner.reported == winner.fresh
        assert RATE in winner.edges
    scores = [np.mean(list(reference.winners[m].fresh.values())) for m in reference.ranking]
    assert scores == sorted(scores)
    assert reference.sentence.startswith(f"{reference.ranking[0]} has a test_loss of ")


def test_a_finished_sweep_is_only_read_and_more_cells_are_added(reference, monkeypatch, tmp_path):
    calls = []
    train = _lanes.Lanes.train
    monkeypatch.setattr(
        _lanes.Lanes,
        "train",
        lambda self, runs, *a: calls.append(len(runs)) or train(self, runs, *a),
    )
    assert sweep(reference.workdir, fresh_seeds=2) == reference
    assert calls == []
    wider = sweep(reference.workdir, seeds=(0, 1, 5))
    assert calls == [4, 4]  # seed 5 of four points and two methods
    assert wider.results.keys() > {cell.name for cell in reference.cells}


def test_another_config_is_refused_by_field(reference):
    changed = {"adamw": training.override(SMALL, {"steps": 21})}
    with pytest.raises(ConfigError, match=r"another config: steps is 20 there and 21 here"):
        sweep(reference.workdir, changed)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Gives the uninterrupted sweep of two seeds."""

    @functools.cache
    def make(lanes):
        return sweep(tmp_path_factory.mktemp("whole"), {"adamw": SMALL}, {}, lanes=lanes)

    return make


# The line is the third or fourth of the second cell, after its first checkpoint.
@pytest.mark.parametrize(
    ("kind", "lanes", "line", "lines_a_cell"),
    [("kill", 1, 11, 8), (signal.SIGTERM, 1, 11, 8), (signal.SIGTERM, 0, 9, 6)],
)
def test_interrupted_it_goes_on_bit_for_bit(
    whole, monkeypatch, tmp_path, kind, lanes, line, lines_a_cell
):
    reference = whole(lanes)
    lines, write = [], _metrics.Lines.write

    def interrupting(self, record):
        write(self, record)
        lines.append(record)
        if len(lines) == line:
            if kind == "kill":
                raise KeyboardInterrupt
            os.kill(os.getpid(), kind)

    monkeypatch.setattr(_metrics.Lines, "write", interrupting)
    if kind == "kill":
        with pytest.raises(KeyboardInterrupt):
            sweep(tmp_path, {"adamw": SMALL}, {}, lanes=lanes)
    else:
        stopped = sweep(tmp_path, {"adamw": SMALL}, {}, lanes=lanes)
        assert (stopped.signum, stopped.winners) == (signal.SIGTERM, {})
    assert len(lines) == line
    found = sweep(tmp_path, {"adamw": SMALL}, {}, lanes=lanes)
    assert len(lines) - line < lines_a_cell  # it did go on
    assert found.winners == reference.winners
    for cell in found.cells:
        assert records(found, cell.name) == records(reference, cell.name)
    assert not (tmp_path / "running").exists()


def test_two_sweepers_share_the_cells(tmp_path):
    methods, grid = {"adamw": SMALL}, {RATE: [1e-3, 1e-2]}
    cells = _grid.make_cells(methods, grid, [0])
    with Workdir(tmp_path / "cells" / cells[0].name, cells[0].config).lock():
        found = sweep(tmp_path, methods, grid, [0], lanes=1)
        assert (found.elsewhere, list(found.results)) == (1, [cells[1].name])
        assert (found.winners, found.signum) == ({}, 0)
    assert sweep(tmp_path, methods, grid, [0], lanes=1).winners


def test_a_run_that_diverges_leaves_the_others_alone(tmp_path):
    config = training.override(SMALL, {"optimizer.name": "sgd", "steps": 8})
    found = sweep(tmp_path, {"sgd": config}, {RATE: [0.1, 1e30]}, [0])
    sound, bad = found.results.values()
    assert (sound.status, bad.status, bad.step) == ("done", "diverged", 0)
    assert 1 < bad.diverged_at <= 4
    assert math.isinf(found.scores[found.cells[1].name])
    assert found.winners["sgd"].values == {RATE: 0.1}
    report = training.write_sweep_report(found).read_text()
    assert "| 1e+30 | nothing finite |" in report
    rows = json.loads((tmp_path / "results.json").read_text())["cells"]
    assert [row["test_loss"] is None for row in rows] == [False, True]


def test_an_optimizer_that_cannot_be_vmapped_is_trained_in_turn(monkeypatch, tmp_path):
    make = _pure.configured_optimizer

    def picky(config, steps):
        bool(config.arguments["weight_decay"] > 0.05)  # no traced value has a truth
        return make(config, steps)

    monkeypatch.setattr(_pure, "configured_optimizer", picky)
    found = sweep(tmp_path, {"adamw": SMALL}, {DECAY: [0.0, 0.1]}, [0])
    assert (tmp_path / "cells" / found.cells[0].name / "checkpoints").is_dir()
    assert found.winners


def test_a_metric_that_is_none_is_told(reference):
    with pytest.raises(ConfigError, match="metric 'test_los' is unknown; did you mean test_loss"):
        sweep(reference.workdir, metric="test_los")
    assert sweep(reference.workdir, metric="test_accuracy").winners


def test_the_report_has_every_cell(reference):
    report = training.write_sweep_report(reference).read_text()
    assert report.startswith(reference.sentence)
    assert report.count("\n| 0.0001 | ") == 2 * 2  # methods times decays
    assert "Each method was tuned with 8 runs of 20 steps." in report
    assert (reference.workdir / "sweep.png").stat().st_size > 5000
    told = json.loads((reference.workdir / "results.json").read_text())
    assert len(told["cells"]) == 2 * 8 + 2 * 2
    for row in told["cells"]:
        metrics = training.read_metrics(reference.workdir / row["workdir"] / "metrics.jsonl")
        assert metrics[-1]["test_loss"] == row["test_loss"]
    lines = (reference.workdir / "results.csv").read_text().splitlines()
    assert len(lines) == 1 + len(told["cells"])


def test_curves_of_a_sweep_are_those_of_its_winners(reference, tmp_path):
    training.write_sweep_report(reference)
    runs = training.find_runs([reference.workdir])
    assert {label: len(files) for label, files in runs.items()} == {"adamw": 2, "lion": 2}
    training.plot_curves(runs, tmp_path / "p.png", ["train_loss"])
    training.write_curves(runs, tmp_path / "p.csv", ["train_loss", "test_loss"])
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[0] == "label,workdir,step,train_loss,test_loss"
    assert len(lines) == 1 + 2 * 2 * 6  # logged at 4, 8, 12, 16, 20 and looked at at 10 and 20


def test_a_value_of_the_grid_may_be_a_dict():
    codecs = [{"mu": "dynamic8"}, {"mu": "power8"}, "power8"]
    base = training.override(SMALL, {"optimizer.name": "adamw8bit"})
    cells = _grid.make_cells({"it": base}, {"optimizer.arguments.codec": codecs}, [0, 1])
    scores = {cell.name: score for cell, score in zip(cells, [3, 3, 1, 1, 2, 2], strict=True)}
    points = _sweep._points("it", cells, scores, "test_loss")
    assert [values["optimizer.arguments.codec"] for values, _ in points] == codecs[1:] + codecs[:1]
    assert points[0][1] == {0: 1, 1: 1}
    assert _sweep._edges("it", points[0][0], cells) == ()


@pytest.mark.slow
def test_fifteen_cells_side_by_side_are_faster_than_in_turn(tmp_path):
    """Five rates and three seeds on digits: the same winner, in less processor and wall time.

    After 300 steps the rates are far apart. Rounding, which depends on the number of lanes, decides
    between points that are as good as one another, as it does after 1000 steps.
    """
    methods = {"adamw": TrainConfig(steps=300, eval_every=300, checkpoint_every=300)}
    grid, took, winners = {RATE: [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]}, {}, {}
    for lanes in (15, 1, 0):
        began = time.process_time(), time.perf_counter()
        found = sweep(tmp_path / str(lanes), methods, grid, [0, 1, 2], lanes=lanes)
        took[lanes] = time.process_time() - began[0], time.perf_counter() - began[1]
        winners[lanes] = found.winners["adamw"].values
    print({lanes: [round(t, 1) for t in times] for lanes, times in took.items()})
    assert winners[0] == winners[1] == winners[15]
    assert took[15][0] < took[0][0]
    assert took[15][1] < took[0][1]
