"""The bilevel binary: its configs, its mistakes, and a kill at any time."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from optlab import training
from optlab.training import bilevel
from tests.checkpoint_leaves import last_leaves
from tests.experiments.forks import run_in_forks

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "experiments" / "configs").glob("bilevel_*.py"))
DIGITS = "experiments/configs/bilevel_hyper_cleaning_digits.py"
# Long enough to be hit, and log lines and checkpoints out of step with one another.
LONG = f"{DIGITS}:saba,steps=60000,log_every=500,eval_every=1500,checkpoint_every=2000"


def start(*args):
    command = [sys.executable, "-m", "experiments.bilevel", *map(str, args)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(*args):
    process = start(*args)
    out, err = process.communicate(timeout=280)
    return process.returncode, out, err


def last_bits(workdir):
    return {path: leaf.tobytes() for path, leaf in last_leaves(workdir).items()}


# Long to compile; their solvers, models and tasks have quick tests of their own.
LONG_TO_COMPILE = ("bilevel_stn_fashion_mnist", "bilevel_few_shot_omniglot")


@pytest.mark.parametrize(
    "file",
    [pytest.param(f, marks=[pytest.mark.slow] * (f.stem in LONG_TO_COMPILE)) for f in CONFIGS],
    ids=lambda file: file.stem,
)
def test_smoke_variant_of_every_config(file, tmp_path):
    config = training.load_config(f"{file}:smoke", bilevel.BilevelConfig)
    assert config.steps <= 100
    result = bilevel.solve(config, tmp_path)
    assert (result.status, result.step) == ("done", config.steps)
    assert result.finding


def test_a_run_and_its_record(tmp_path):
    args = f"--config={DIGITS}:smoke,seed=3", f"--workdir={tmp_path / 'w'}"
    override = "--config.problem.arguments.corrupted=0.3"
    code, out, err = run(*args, override, "--config.inner_optimizer.learning_rate=0.25")
    assert code == 0, err
    assert out.startswith("soba finds the right labels of digits with an F1 of ")
    config = json.loads((tmp_path / "w" / "config.json").read_text())
    assert (config["seed"], config["problem"]["arguments"]["corrupted"]) == (3, 0.3)
    assert config["inner_optimizer"]["learning_rate"] == 0.25


MISTAKES = [
    ([f"--config={DIGITS}:sobaa"], "config has no variant 'sobaa'; did you mean saba?"),
    (["--config=experiments/configs/digits.py"], "that gives a BilevelConfig."),
]


def test_a_mistake_is_one_sentence_and_writes_nothing_and_a_list_is_no_mistake(tmp_path):
    lines = [[*args, f"--workdir={tmp_path / 'w'}"] for args, _ in MISTAKES]
    *ends, listed = run_in_forks([["experiments.bilevel", *line] for line in (*lines, ["--list"])])
    for (args, message), (code, out, err) in zip(MISTAKES, ends, strict=True):
        assert (code, out, err.count("\n")) == (2, "", 1), (args, err)
        assert message in err, args
    assert not (tmp_path / "w").exists()
    code, out, _ = listed
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [file.stem for file in CONFIGS]


@pytest.mark.slow
def test_kill_9_then_the_same_command(tmp_path):
    reference = bilevel.solve(
        training.load_config(LONG, bilevel.BilevelConfig), tmp_path / "reference"
    )
    args = f"--config={LONG}", f"--workdir={tmp_path / 'w'}"
    metrics = tmp_path / "w" / "metrics.jsonl"
    for kill, lines in ((signal.SIGKILL, 7), (signal.SIGTERM, 31)):
        process = start(*args)
        while len(training.read_metrics(metrics)) < lines:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(kill)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (143, -signal.SIGKILL, -signal.SIGTERM), err
    code, _, err = run(*args)
    assert code == 0, err
    assert last_bits(tmp_path / "w") == last_bits(reference.workdir)
    assert json.loads((tmp_path / "w" / "manifest.json").read_text())["resumed_at"]
    assert os.listdir(tmp_path / "w" / "checkpoints")
