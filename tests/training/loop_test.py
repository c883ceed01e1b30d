"""The loop: one trace, the same bits after any interruption, figures that say what happened."""

import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import optax
import pytest

from optlab import training
from optlab.training import ConfigError, ModelConfig, OptimizerConfig, TrainConfig, _loop
from optlab.training._program import compile_program
from optlab.training.data import epoch_order, load_data


def small(**changes):
    """A config that compiles fast; an epoch has 11 steps, so that it crosses some."""
    defaults = {
        "steps": 40,
        "batch_size": 128,
        "log_every": 4,
        "eval_every": 8,
        "checkpoint_every": 10,
        "model": ModelConfig(widths=(8,)),
        "optimizer": OptimizerConfig(learning_rate=5e-2, warmup_steps=5),
    }
    return TrainConfig(**defaults | changes)


def final_carry(config, workdir):
    """The arrays of a run's last checkpoint, by leaf."""
    data = load_data(config.data)
    rate = training.make_schedule(config.optimizer, config.steps)
    tx = training.make_optimizer(config.optimizer.name, rate, **config.optimizer.arguments)
    like = compile_program(config, tx, data).carry
    checkpoints = training.Checkpoints(workdir / "checkpoints")
    carry = checkpoints.restore(checkpoints.latest(), like)
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(carry)]


def untimed(records):
    return [{k: v for k, v in r.items() if not k.endswith("per_second")} for r in records]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("reference")
    return training.train(small(), workdir)


def test_a_run_learns_and_tells(reference):
    assert (reference.step, reference.signum) == (40, 0)
    assert reference.test_accuracy > 0.5
    assert reference.parameters == 64 * 8 + 8 + 8 * 10 + 10
    assert reference.state_bytes_per_parameter == pytest.approx(8.0, abs=0.05)
    records = training.read_metrics(reference.metrics_path)
    assert [r["step"] for r in records] == [*range(4, 41, 4)]
    assert [r["step"] for r in records if "test_accuracy" in r] == [8, 16, 24, 32, 40]
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    manifest = json.loads((reference.workdir / "manifest.json").read_text())
    assert manifest["status"] == "done"
    assert manifest["versions"]["jax"] == jax.__version__
    report = (reference.workdir / "report.md").read_text()
    assert report.startswith(
        f"adamw classifies {reference.test_accuracy:.2%} of the held-out digits"
    )
    assert (reference.workdir / "curves.png").stat().st_size > 5000


def test_a_finished_run_is_only_read(reference):
    files = {file: file.stat().st_mtime_ns for file in reference.workdir.rglob("*")}
    assert training.train(small(), reference.workdir) == reference
    assert {file: file.stat().st_mtime_ns for file in reference.workdir.rglob("*")} == files


def test_a_changed_config_is_refused_by_field(reference):
    changed = training.override(small(), {"optimizer.learning_rate": 0.5, "seed": 1})
    with pytest.raises(
        ConfigError, match=r"optimizer.learning_rate is 0.05 there and 0.5 here; seed"
    ):
        training.train(changed, reference.workdir)


def test_a_checkpoint_of_another_config_is_refused(reference, tmp_path):
    (tmp_path / "checkpoints").symlink_to(reference.workdir / "checkpoints")
    with pytest.raises(ConfigError, match="seed is 0 there and 1 here"):
        training.train(small(seed=1), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoints"]


def test_one_trace(monkeypatch, tmp_path):
    traces = []
    sgd = optax.sgd(0.1)

    def update(updates, state, params=None):
        traces.append(1)
        return sgd.update(updates, state, params)

    counting = optax.GradientTransformation(sgd.init, update)
    monkeypatch.setattr(_loop, "configured_optimizer", lambda *_, **__: counting)
    training.train(small(), tmp_path)
    assert len(traces) == 1


@pytest.mark.parametrize("name", ["lbfgs", "prodigy", "momo"])
def test_optimizers_with_extra_arguments_or_aliased_states(name, tmp_path):
    config = small(optimizer=OptimizerConfig(name=name, learning_rate=1.0, schedule="constant"))
    result = training.train(config, tmp_path)
    records = training.read_metrics(result.metrics_path)
    assert records[-1]["train_loss"] < records[0]["train_loss"]


def test_cnn_learns(tmp_path):
    config = small(model=ModelConfig(name="cnn", widths=(8, 16)))
    assert training.train(config, tmp_path).test_accuracy > 0.2


@pytest.mark.parametrize("stop_at", [1, 17])
def test_sigterm_saves_and_the_run_goes_on_bit_for_bit(reference, monkeypatch, tmp_path, stop_at):
    steps = 0

    def interrupting(config, tx, data):
        program = compile_program(config, tx, data)

        def step(*args):
            nonlocal steps
            steps += 1
            if steps == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return program.step(*args)

        return program._replace(step=step)

    monkeypatch.setattr(_loop, "compile_program", interrupting)
    result = training.train(small(), tmp_path)
    assert (result.step, result.signum) == (stop_at, signal.SIGTERM)
    assert json.loads((tmp_path / "manifest.json").read_text())["status"] == "preempted"
    with (tmp_path / "metrics.jsonl").open("a") as file:  # as a kill -9 would leave it
        file.write(json.dumps({"step": 99, "train_loss": 0.0}) + '\n{"step": 1')
    result = training.train(small(), tmp_path)
    assert (result.step, result.signum) == (40, 0)
    assert final_carry(small(), tmp_path) == final_carry(small(), reference.workdir)
    assert untimed(training.read_metrics(result.metrics_path)) == untimed(
        training.read_metrics(reference.metrics_path)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1438}, "config.batch_size must not exceed the 1437 examples of digits"),
        ({"steps": 0}, "config.steps must be at least 1"),
        ({"model.widths": (8, 0)}, r"config.model.widths must be at least 1"),
        ({"seed": 2**63}, r"config.seed must be a number below"),
        ({"optimizer.learning_rate": float("nan")}, "config.optimizer.learning_rate must be"),
        ({"optimizer.learning_rate": -1.0}, "learning_rate must be at least 0"),
        ({"model.name": "mpl"}, r"model.name 'mpl' is unknown; did you mean mlp\?"),
        ({"data.name": "mnits"}, "data.name 'mnits' is unknown; did you mean"),
        ({"optimizer.name": "adamv"}, "did you mean .*adamw"),
        (
            {"optimizer.arguments.b1": "high"},
            r"optimizer.arguments {'b1': 'high'} do not suit adamw",
        ),
        ({"optimizer.arguments.mask": abs}, "config cannot be recorded as JSON"),
    ],
)
def test_a_wrong_config_leaves_no_workdir(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        training.train(training.override(small(), changes), tmp_path / "w")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "w").exists()


def test_a_missing_package_is_told_before_the_run(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name != "sklearn" and find(name))
    with pytest.raises(ConfigError, match=r"needs scikit-learn: pip install 'optlab\[exp"):
        training.train(small(), tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_unusable_workdirs(tmp_path):
    (tmp_path / "file").write_text("mine")
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o555)
    for path, message in [
        ("file", "to be a folder"),
        ("file/x", "to be a folder"),
        ("kept", "kept is read-only"),
    ]:
        with pytest.raises(ConfigError, match=f"workdir .*{message}"):
            training.train(small(), tmp_path / path)
    assert (tmp_path / "file").read_text() == "mine"
    assert not list(kept.iterdir())


def test_train_works_off_the_main_thread(tmp_path):
    results = []
    thread = threading.Thread(
        target=lambda: results.append(training.train(small(steps=5), tmp_path))
    )
    thread.start()
    thread.join()
    assert results[0].step == 5


def test_divergence_is_told(tmp_path):
    config = small(steps=8, optimizer=OptimizerConfig(name="sgd", learning_rate=1e30))
    result = training.train(config, tmp_path)
    assert "sgd diverged: at step 2 " in result.sentence
    assert dataclasses.asdict(training.train(config, tmp_path)).keys() == vars(result).keys()


def test_import_is_light():
    code = "import sys, optlab.training; print([m for m in {} if m in sys.modules])".format(
        ["sklearn", "matplotlib", "orbax.checkpoint", "ml_collections", "tqdm"]
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.slow
def test_python_overhead_of_a_warm_step():
    """A step whose computation is nothing: what is left is Python and dispatch."""
    config = small(batch_size=1, model=ModelConfig(widths=(1,)))
    data = load_data(config.data)
    program = compile_program(config, optax.sgd(0.1), data)
    order = program.place(epoch_order(0, 0, len(data.train.targets), 1))
    carry, best = program.carry, np.inf
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(200):
            carry = program.step(carry, order)
        jax.block_until_ready(carry)
        best = min(best, (time.perf_counter() - began) / 200)
    assert best < 100e-6
