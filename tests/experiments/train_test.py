"""The training binary: commands, mistakes, and signals at any time."""

import ast
import functools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from optlab import training
from optlab.training._layout import Layout
from optlab.training._pure import PureRun, seed_words
from optlab.training.data import load_data
from tests.experiments.forks import run_in_forks

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = [  # of runs; those of bilevel solvers have a binary of their own
    file
    for file in sorted((ROOT / "experiments" / "configs").glob("*.py"))
    if not file.stem.startswith("bilevel_")
]
DIGITS = "experiments/configs/digits.py"
# Long enough to be hit, with epochs, log lines and checkpoints out of step with one another.
LONG = (
    f"{DIGITS}:smoke,steps=6000,log_every=50,eval_every=700,checkpoint_every=130,model.widths=(32,)"
)

GPT = (
    "experiments/configs/tinyshakespeare_gpt.py:smoke,data.name=tinyshakespeare,model.dropout=0.1,"
    "steps=4000,log_every=20,eval_every=1300,checkpoint_every=70"
)


def start(*args, environment=()):
    command = [sys.executable, "-m", "experiments.train", *map(str, args)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **dict(environment)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*args, environment=()):
    process = start(*args, environment=environment)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def wait_for(process, condition):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def final_bits(workdir):
    checkpointer = ocp.training.Checkpointer(workdir / "checkpoints")
    step = checkpointer.latest.step
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
        for path, leaf in checkpointer.metadata(step).metadata.items()
    }
    leaves = checkpointer.load(step, like)
    checkpointer.close()
    assert any(path.startswith("state.params.") for path in leaves)
    return step, {path: np.asarray(leaf).tobytes() for path, leaf in leaves.items()}


# A few lines each: a task of experiments/tasks.py, and a method.
OF_METHODS = [file for file in CONFIGS if "experiments.tasks" in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("file", OF_METHODS, ids=lambda file: file.stem)
def test_a_step_of_every_method_is_traced(file):
    config = training.load_config(f"{file}:smoke")
    assert training.load_config(f"{file}:adamw,smoke").optimizer.name == "adamw"
    tx = training.make_optimizer(config.optimizer.name, 1e-3, **config.optimizer.arguments)
    data = load_data(config.data)
    run = PureRun(config, tx, data, Layout(config.mesh))
    order = np.zeros((1, config.batch_size), np.int32)

    def step(words, train, order):
        return run.step(words, run.init(words), train, order)

    jax.eval_shape(step, seed_words(0), data.train, order)
    head = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert f"--config=experiments/configs/{file.name}" in head
    assert "Expected: " in head


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(f, marks=[pytest.mark.slow] * (f in OF_METHODS or f.stem == "cifar10_resnet"))
        for f in CONFIGS
    ],
    ids=lambda file: file.stem,
)
def test_smoke_variant_of_every_config(file, tmp_path):
    config = training.load_config(f"{file}:smoke")
    assert config.steps <= 100
    assert training.train(config, tmp_path).step == config.steps


def test_overrides_reach_the_run_and_its_record(tmp_path):
    code, out, err = run(
        f"--config={DIGITS}:smoke,seed=3",
        f"--workdir={tmp_path / 'w'}",
        "--config.steps=6",
        "--config.model.widths=(8, 4)",
        "--config.optimizer.name=lion",
        "--config.optimizer.learning_rate=0.01",
        "--config.optimizer.arguments.weight_decay=0.25",
        "--config.optimizer.arguments.mu_dtype=bfloat16",
    )
    assert code == 0, err
    assert out.startswith("lion classifies ")
    config = json.loads((tmp_path / "w" / "config.json").read_text())
    assert (config["seed"], config["steps"], config["model"]["widths"]) == (3, 6, [8, 4])
    assert config["optimizer"] == {
        "name": "lion",
        "learning_rate": 0.01,
        "schedule": "cosine",
        "warmup_steps": 0,
        "statistics": False,
        "arguments": {"weight_decay": 0.25, "mu_dtype": "bfloat16"},
    }


MISTAKES = [
    ([f"--config={DIGITS}:smok"], "config has no variant 'smok'; did you mean smoke?"),
    (["--config.stepz=1"], "config has no field 'stepz'; did you mean steps?"),
    (
        [f"--config={DIGITS}", "--config.optimizer.lerning_rate=1"],
        "config.optimizer has no field 'lerning_rate'; did you mean learning_rate?",
    ),
    (["--config.steps=many"], "--config.steps=many"),
    ([f"--config={DIGITS}:steps=many"], "config.steps must be int, got 'many'."),
    (["--config.model.widths=(1, 'a')"], "config.model.widths must be"),
    (["--config.optimizer.arguments=3"], "--config.optimizer.arguments=3: it must be a dict"),
    (["--config.optimizer.name=adamm"], "optimizer.name 'adamm' is unknown; did you mean"),
    (["--config.optimizer.arguments.b11=0.9"], "'b11', which adamw does not take; did you mean"),
    (["--config=none.py"], "config 'none.py' is not a file."),
    (["--wrkdir=x"], "Unknown command line flag 'wrkdir'. Did you mean: workdir ?"),
    (["extra"], "argument 'extra' is not a flag."),
]


def test_a_mistake_is_one_sentence_and_writes_nothing(tmp_path):
    workdir = f"--workdir={tmp_path / 'w'}"
    ends = run_in_forks([["experiments.train", *args, workdir] for args, _ in MISTAKES])
    for (args, message), (code, out, err) in zip(MISTAKES, ends, strict=True):
        assert (code, out, err.count("\n")) == (2, "", 1), (args, err)
        assert message in err, args
    assert not (tmp_path / "w").exists()


def test_unusable_workdirs(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    code, _, err = run(f"--workdir={file}", f"--config={DIGITS}:smoke")
    assert (code, err.count("\n"), file.read_text()) == (2, 1, "mine")
    assert err.startswith(f"workdir '{file}' needs")


def test_list():
    code, out, _ = run("--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [file.stem for file in CONFIGS]


def test_help_names_the_flags_of_all_commands():
    out = run("--help")[1]
    assert all(f"  --{flag}: " in out for flag in ("config", "[no]list", "workdir"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("reference")
    training.train(training.load_config(LONG), workdir)
    return workdir


def test_sigterm_then_kill_9_then_the_same_command(reference, tmp_path):
    args = f"--config={LONG}", f"--workdir={tmp_path}"
    metrics = tmp_path / "metrics.jsonl"

    process = start(*args)
    wait_for(process, lambda: len(training.read_metrics(metrics)) > 3)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert out.startswith("Stopped at step ")
    lines = len(training.read_metrics(metrics))

    process = start(*args)
    wait_for(process, lambda: len(training.read_metrics(metrics)) > lines + 25)
    process.kill()
    process.communicate()
    assert training.read_metrics(metrics)[-1]["step"] < 6000

    code, out, err = run(*args)
    assert code == 0, err
    assert final_bits(tmp_path) == final_bits(reference)
    assert "orbax" not in err

    before = sorted((file, file.stat().st_mtime_ns) for file in tmp_path.rglob("*"))
    assert run(*args)[:2] == (0, out)
    assert sorted((file, file.stat().st_mtime_ns) for file in tmp_path.rglob("*")) == before


@pytest.mark.slow  # the lock itself is workdir_test's
def test_a_second_process_is_refused_until_the_first_is_killed(reference, tmp_path):
    args = f"--config={LONG}", f"--workdir={tmp_path}"
    first = start(*args)
    try:
        wait_for(first, lambda: len(training.read_metrics(tmp_path / "metrics.jsonl")) > 3)
        first.send_signal(signal.SIGSTOP)  # or it might be done too soon
        code, out, err = run(*args)
    finally:
        first.kill()
        first.communicate()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"is in use by process {first.pid} on " in err
    assert run(*args)[0] == 0
    assert final_bits(tmp_path) == final_bits(reference)


def test_a_diverged_run_has_a_code_of_its_own(tmp_path):
    args = f"--config={DIGITS}:smoke,optimizer.name=sgd,optimizer.learning_rate=1e18"
    code, out, err = run(args, f"--workdir={tmp_path}")
    assert (code, out) == (3, "")
    assert err.splitlines()[-1].startswith("sgd diverged: at step 2 its loss")
    assert "Traceback" not in err


@pytest.fixture
def small_disk(tmp_path):
    """A disk with room for two checkpoints of the digits, not for three."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user cannot mount a disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow  # in one process it is robustness_test's
def test_a_full_disk_is_one_sentence_and_the_run_goes_on(small_disk, tmp_path):
    config = f"--config={DIGITS}:smoke,checkpoint_every=5"
    args = config, f"--workdir={small_disk / 'w'}"
    code, out, err = run(*args)
    assert (code, out) == (1, "")
    assert "Traceback" not in err
    refused = (
        r"checkpoint 15 cannot be saved in .*: No space left on device; the latest .* step 10\."
    )
    assert re.fullmatch(refused, err.splitlines()[-1])
    kept = sorted(folder.name for folder in (small_disk / "w" / "checkpoints").iterdir())
    assert kept == ["10", "5"]

    subprocess.run(["mount", "-o", "remount,size=9m", small_disk], check=True)
    code, _, err = run(*args)
    assert code == 0, err
    assert json.loads((small_disk / "w" / "manifest.json").read_text())["resumed_at"] == [10]
    training.train(training.load_config(config.removeprefix("--config=")), tmp_path / "w")
    assert final_bits(small_disk / "w") == final_bits(tmp_path / "w")


# What is killed at random: a config, and what its processes find in their environment.
TASKS = {
    "digits": (LONG.replace("steps=6000", "steps=20000"), {}),
    "digits_on_4_devices": (f"{LONG},mesh.data=2,mesh.fsdp=2", {"JAX_NUM_CPU_DEVICES": "4"}),
    "tinyshakespeare": (GPT, {}),
}


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """Gives the workdir of an uninterrupted run of a task."""

    @functools.cache
    def make(task):
        config, environment = TASKS[task]
        workdir = tmp_path_factory.mktemp(task)
        code, _, err = run(f"--config={config}", f"--workdir={workdir}", environment=environment)
        if "has no copy here" in err:
            pytest.skip("tinyshakespeare needs a copy in OPTLAB_DATA_DIR, or the network")
        assert code == 0, err
        return workdir

    return make


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("task", TASKS)
def test_killed_at_random(references, tmp_path, task, seed):
    """Twenty moments a task, start-up, compilation and saves included; each some way on."""
    config, environment = TASKS[task]
    args = f"--config={config}", f"--workdir={tmp_path}"
    chance = random.Random(seed)
    metrics = tmp_path / "metrics.jsonl"
    for kill in range(5):
        process = start(*args, environment=environment)
        if kill % 2:
            time.sleep(chance.uniform(0.1, 4.0))
        else:
            lines = len(training.read_metrics(metrics)) + chance.randint(1, 15)
            wait_for(process, lambda lines=lines: len(training.read_metrics(metrics)) > lines)
            time.sleep(chance.uniform(0.0, 0.05))
        process.send_signal(chance.choice([signal.SIGTERM, signal.SIGKILL]))
        _, err = process.communicate(timeout=60)
        if not process.returncode:
            break  # the run was over before its signal came
        assert process.returncode in (143, -signal.SIGKILL, -signal.SIGTERM), err
    code, _, err = run(*args, environment=environment)
    assert code == 0, err
    assert final_bits(tmp_path) == final_bits(references(task))
    assert not json.loads((tmp_path / "manifest.json").read_text())["damaged_checkpoints"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2  # and nothing half-written
