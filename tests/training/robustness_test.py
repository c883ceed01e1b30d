"""What goes wrong in a run: losses that are not finite, damaged checkpoints, full disks."""

import json
import math
import os
import resource
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optlab import training
from optlab.training import (
    ModelConfig,
    OptimizerConfig,
    StorageError,
    TrainConfig,
    _loop,
    _program,
    _pure,
)
from optlab.training._tasks import make_task
from optlab.training.data import epoch_order, load_data


def small(**changes):
    """A config that compiles fast; an epoch has 11 steps, so that it crosses some."""
    defaults = {
        "steps": 30,
        "batch_size": 128,
        "log_every": 4,
        "eval_every": 8,
        "checkpoint_every": 5,
        "model": ModelConfig(widths=(8,)),
        "optimizer": OptimizerConfig(learning_rate=5e-2),
    }
    return TrainConfig(**defaults | changes)


def program_of(config, data):
    rate = training.make_schedule(config.optimizer, config.steps)
    tx = training.make_optimizer(config.optimizer.name, rate, **config.optimizer.arguments)
    return _program.compile_program(config, tx, data)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def last_carry(config, workdir):
    """What a run's last checkpoint holds."""
    checkpoints = training.Checkpoints(workdir / "checkpoints")
    step = checkpoints.latest()
    carry = checkpoints.restore(step, program_of(config, load_data(config.data)).carry)
    assert int(carry.state.step) == step
    return carry


def manifest(workdir):
    return json.loads((workdir / "manifest.json").read_text())


@pytest.fixture
def poison(monkeypatch):
    """Makes the inputs of one example NaN, so that the steps that draw it have a NaN loss."""

    def put(value, step):
        data = load_data(small().data)
        order = epoch_order(0, 0, len(data.train.targets), 128)
        inputs = np.array(data.train.inputs, np.float32)
        inputs[order[step - 1, 3]] = value
        poisoned = data._replace(train=data.train._replace(inputs=inputs))
        monkeypatch.setattr(_loop, "load_data", lambda config: poisoned)
        return order[step - 1, 3], len(inputs)

    return put


# At a log line, just after one, at a checkpoint, and before the first checkpoint.
@pytest.mark.parametrize(
    ("step", "kept", "value"),
    [(8, 5, math.nan), (9, 5, math.inf), (10, 5, math.nan), (3, 0, math.nan)],
)
def test_stop_names_the_step_and_saves_nothing_bad(poison, tmp_path, step, kept, value):
    poison(value, step)
    for _ in range(2 if step == 9 else 1):  # the same command comes to the same end
        result = training.train(small(), tmp_path)
        assert (result.status, result.diverged_at, result.step) == ("diverged", step, kept)
        assert f"adamw diverged: at step {step} " in result.sentence
        last = f"is that of step {kept}." if kept else "does not exist."
        assert result.sentence.endswith(f"the last good checkpoint {last}")
        assert manifest(tmp_path)["status"] == "diverged"
        lines = training.read_metrics(result.metrics_path)
        assert all(line["step"] < step and math.isfinite(line["train_loss"]) for line in lines)
        assert training.Checkpoints(tmp_path / "checkpoints").latest() == (kept or None)
        assert not (tmp_path / "report.md").exists()


def test_a_signal_after_a_bad_step_saves_nothing(poison, tmp_path, monkeypatch):
    poison(math.nan, 6)

    def interrupting(*args):
        program = _program.compile_program(*args)
        calls = []

        def step(*args):
            calls.append(1)
            if len(calls) == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            return program.step(*args)

        return program._replace(step=step)

    monkeypatch.setattr(_loop, "compile_program", interrupting)
    result = training.train(small(), tmp_path)
    assert (result.status, result.diverged_at, result.step) == ("diverged", 6, 5)


def test_skip_leaves_the_step_out_and_counts_it(poison, tmp_path):
    example, examples = poison(math.nan, 6)
    config = small(on_nonfinite="skip")
    result = training.train(config, tmp_path)
    drawn = sum(
        (epoch_order(0, epoch, examples, 128)[: 30 - 11 * epoch] == example).sum()
        for epoch in range(3)
    )
    lines = training.read_metrics(result.metrics_path)
    assert (result.status, result.step) == ("done", 30)
    assert sum(line["skipped"] for line in lines) == drawn >= 2
    assert all(math.isfinite(line["train_loss"]) for line in lines)
    assert result.test_accuracy > 0.5

    program = program_of(config, _loop.load_data(config.data))
    carry, order = program.carry, program.place(epoch_order(0, 0, examples, 128))
    for _ in range(5):
        carry = program.step(carry, order)
    before = bits(carry.state.replace(step=0))
    carry = program.step(carry, order)
    assert int(carry.state.step) == 6
    assert bits(carry.state.replace(step=0)) == before
    assert bits(program.step(carry, order).state.replace(step=0)) != before


def only_the_gradient_is_nan(monkeypatch):
    def make(data):
        task = make_task(data)

        def score(outputs, targets):
            figures = task.score(outputs, targets)
            # Zero, whose gradient is 0 * inf.
            return figures | {"loss": figures["loss"] + jnp.sqrt(0.0 * outputs).sum(axis=-1)}

        return task._replace(score=score)

    monkeypatch.setattr(_pure, "make_task", make)


def test_a_nan_of_the_gradient_alone(tmp_path, monkeypatch):
    only_the_gradient_is_nan(monkeypatch)
    result = training.train(small(), tmp_path / "stop")
    assert (result.status, result.diverged_at, result.step) == ("diverged", 2, 0)
    result = training.train(small(on_nonfinite="skip"), tmp_path / "skip")
    lines = training.read_metrics(result.metrics_path)
    assert sum(line["skipped"] for line in lines) == 30
    assert {line["update_norm"] for line in lines} == {0.0}
    assert len({line["parameter_norm"] for line in lines}) == 1


def test_ignore_goes_on(poison, tmp_path):
    poison(math.nan, 3)
    result = training.train(small(on_nonfinite="ignore"), tmp_path)
    assert (result.status, result.step) == ("done", 30)
    assert math.isnan(result.train_loss)
    assert "adamw diverged after 30 steps" in result.sentence


def test_norms_and_rates_are_those_of_the_step(tmp_path):
    """With sgd, whose update is the gradient times the learning rate."""
    config = small(steps=8, log_every=3, optimizer=OptimizerConfig(name="sgd", learning_rate=0.5))
    lines = training.read_metrics(training.train(config, tmp_path).metrics_path)
    assert [line["step"] for line in lines] == [3, 6, 8]
    rate = training.make_schedule(config.optimizer, config.steps)
    for line in lines:
        assert line["learning_rate"] == pytest.approx(float(rate(line["step"] - 1)), rel=1e-6)
        assert line["update_norm"] == pytest.approx(
            line["gradient_norm"] * line["learning_rate"], rel=1e-4
        )
        assert line["examples_per_second"] == pytest.approx(128 * line["steps_per_second"])
    params = jax.tree.leaves(last_carry(config, tmp_path).state.params)
    norm = math.sqrt(sum(float((leaf**2).sum()) for leaf in params))
    assert lines[-1]["parameter_norm"] == pytest.approx(norm, rel=1e-5)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("reference")
    training.train(small(), workdir)
    return workdir


@pytest.mark.parametrize(("spared", "resumed"), [(("25",), 25), ((), None)])
def test_a_damaged_checkpoint_is_told_and_the_bits_stay(reference, tmp_path, spared, resumed):
    shutil.copytree(reference, tmp_path / "w")
    workdir = tmp_path / "w"
    (workdir / "manifest.json").unlink()  # not finished, as it were
    damaged = {"25", "30"} - set(spared)
    for name in damaged:
        next((workdir / "checkpoints" / name / "state").glob("ocdbt*/d/*")).unlink()
    result = training.train(small(), workdir)
    assert result.resumed_at == (() if resumed is None else (resumed,))
    told = manifest(workdir)["damaged_checkpoints"]
    assert {str(entry["step"]) for entry in told} == damaged
    assert all(entry["problem"].endswith("is missing") for entry in told)
    assert bits(last_carry(small(), workdir)) == bits(last_carry(small(), reference))


def test_a_full_disk_is_told_and_the_run_goes_on(reference, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(record):
        if record["step"] == 12:  # larger than a line, smaller than a checkpoint
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))

    message = r"^checkpoint 15 cannot be saved in .*: File too large; the latest .* step 10\.$"
    try:
        with pytest.raises(StorageError, match=message):
            training.train(small(), tmp_path, on_record=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert manifest(tmp_path)["status"] == "running"
    result = training.train(small(), tmp_path)
    assert result.resumed_at == (10,)
    assert bits(last_carry(small(), tmp_path)) == bits(last_carry(small(), reference))


def test_profile_is_of_its_window(tmp_path, reference):
    config = small(profile_steps="3:5")
    training.train(config, tmp_path)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert not (reference / "profile").exists()
    assert bits(last_carry(config, tmp_path)) == bits(last_carry(small(), reference))
