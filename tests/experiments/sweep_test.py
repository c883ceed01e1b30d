"""The binaries that sweep and plot: commands, mistakes, a kill."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from optlab import training
from tests.experiments.forks import run_in_forks

ROOT = pathlib.Path(__file__).parents[2]
DIGITS = "experiments/configs/digits.py:smoke"


def start(module, *args):
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{module}", *map(str, args)],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(module, *args):
    process = start(module, *args)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep that was killed once, and then finished by the same command; what that printed."""
    workdir = tmp_path_factory.mktemp("swept") / "w"
    args = (
        f"--config={DIGITS},steps=900,checkpoint_every=300",
        f"--config={DIGITS},steps=900,checkpoint_every=300,optimizer.name=optax.lion",
        *("--grid=optimizer.learning_rate=x0.3,x1", "--seeds=2", f"--workdir={workdir}"),
    )
    process = start("sweep", *args)
    while len(training.read_metrics(next(workdir.glob("running/*/metrics.jsonl"), "none"))) < 70:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.kill()
    process.communicate()
    return workdir, *run("sweep", *args)


def test_a_sweep_goes_on_after_a_kill_and_reports(swept):
    workdir, code, out, err = swept
    assert code == 0, err
    assert out.endswith(f" See {workdir / 'report.md'}.\n")
    methods = json.loads((workdir / "results.json").read_text())["methods"]
    assert sorted(methods) == ["adamw", "lion"]
    assert out.startswith(tuple(f"{name} has a test_loss of " for name in methods))
    assert len(list((workdir / "cells").iterdir())) == 2 * 2 * 2
    assert not (workdir / "running").exists()


def test_a_sweep_and_a_run_are_drawn(swept, tmp_path):
    workdir = swept[0]
    cell = next((workdir / "cells").iterdir())
    picture = tmp_path / "p.svg"
    code, out, err = run("plot", workdir, cell, f"--out={picture}", "--metrics=test_loss")
    assert code == 0, err
    assert out.startswith("3 curves are in ")
    assert picture.read_text().startswith("<?xml")
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert {line.split(",")[0] for line in lines[1:]} >= {'"w', f'"{cell.name.split(",")[0]}'}


def test_a_mistake_is_one_sentence_and_writes_nothing(tmp_path):
    workdir, picture = f"--workdir={tmp_path / 'w'}", f"--out={tmp_path / 'p.png'}"
    mistakes = {
        "did you mean learning_rate?": ["sweep", "--grid=optimizer.lerning_rate=1", workdir],
        "flag --seeds=0": ["sweep", "--seeds=0", workdir],
        "'no/such/run' holds no metrics.jsonl of a run": ["plot", "no/such/run", picture],
    }
    ends = run_in_forks([[f"experiments.{name}", *args] for name, *args in mistakes.values()])
    for message, (code, out, err) in zip(mistakes, ends, strict=True):
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert message in err
    assert not list(tmp_path.iterdir())
