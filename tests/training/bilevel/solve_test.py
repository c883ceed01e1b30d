"""Runs of bilevel solvers: they learn, tell, stop, and go on bit for bit."""

import json
import os
import signal

import jax
import numpy as np
import pytest

from optlab import training
from optlab.base import BilevelProblem, Solver
from optlab.training import ConfigError, bilevel
from optlab.training.bilevel import _solve
from tests.checkpoint_leaves import last_leaves


def small(**changes):
    """Hyper-cleaning of digits, whose log lines, evaluations and checkpoints are out of step."""
    config = bilevel.BilevelConfig(
        steps=120,
        log_every=20,
        eval_every=40,
        checkpoint_every=30,
        outer_batch_size=50,
        inner_batch_size=50,
        problem=bilevel.PartConfig(
            name="hyper_cleaning", arguments={"train": 500, "validation": 200}
        ),
        solver=bilevel.PartConfig(name="saba"),
    )
    config.outer_optimizer.learning_rate = 100.0
    config.outer_optimizer.schedule = "cosine"
    for level in (config.inner_optimizer, config.linear_optimizer):
        level.learning_rate = 0.3
        level.arguments = {"momentum": 0.5}
    return training.override(config, changes)


def last_bits(workdir):
    leaves = last_leaves(workdir)
    assert {"step", "state.x"} <= leaves.keys()
    return {path: leaf.tobytes() for path, leaf in leaves.items()}


def untimed(result):
    records = training.read_metrics(result.metrics_path)
    return [{k: v for k, v in r.items() if not k.endswith("per_second")} for r in records]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An uninterrupted run."""
    return bilevel.solve(small(), tmp_path_factory.mktemp("reference"))


def test_a_run_learns_and_tells(reference):
    assert (reference.status, reference.step) == ("done", 120)
    assert (reference.outer_size, reference.inner_size) == (500, 650)
    assert reference.tested["f1"] > 0.8
    records = training.read_metrics(reference.metrics_path)
    assert [r["step"] for r in records] == [20, 40, 60, 80, 100, 120]
    assert [r["step"] for r in records if "test_f1" in r] == [40, 80, 120]
    assert records[-1]["test_loss"] < records[1]["test_loss"]
    assert all(r["outer_norm"] > 0 for r in records)
    manifest = json.loads((reference.workdir / "manifest.json").read_text())
    assert manifest["status"] == "done"
    assert manifest["result"]["tested"] == reference.tested
    report = (reference.workdir / "report.md").read_text()
    assert report.startswith("saba finds the right labels of digits with an F1 of 0.")
    assert "| outer variables | 500 |" in report
    assert (reference.workdir / "curves.png").stat().st_size > 5000


def test_a_finished_run_is_only_read_and_another_config_refused(reference):
    files = {file: file.stat().st_mtime_ns for file in reference.workdir.rglob("*")}
    assert bilevel.solve(small(), reference.workdir) == reference
    assert {file: file.stat().st_mtime_ns for file in reference.workdir.rglob("*")} == files
    changed = small(**{"solver.name": "soba"})
    with pytest.raises(ConfigError, match=r"solver.name is saba there and soba here"):
        bilevel.solve(changed, reference.workdir)


@pytest.mark.parametrize("stop_at", [1, 7])
def test_a_signal_saves_and_the_run_goes_on_bit_for_bit(reference, monkeypatch, tmp_path, stop_at):
    calls = []

    class Interrupted(_solve._Course):
        def advance(self, *args):
            calls.append(1)
            if len(calls) == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().advance(*args)

    monkeypatch.setattr(_solve, "_Course", Interrupted)
    result = bilevel.solve(small(), tmp_path)
    assert (result.step, result.signum) == (10 * stop_at, signal.SIGTERM)
    with (tmp_path / "metrics.jsonl").open("a") as file:  # as a kill -9 would leave it
        file.write('{"step": 119, "outer_norm": 0.0}\n{"step": 1')
    result = bilevel.solve(small(), tmp_path)
    assert result.resumed_at == (10 * stop_at,)
    assert last_bits(tmp_path) == last_bits(reference.workdir)
    assert untimed(result) == untimed(reference)
    assert result.tested == reference.tested


def test_divergence_ends_the_run_with_nothing_bad_saved(tmp_path):
    config = small(**{"solver.name": "soba", "inner_optimizer.learning_rate": 1e30})
    result = bilevel.solve(config, tmp_path)
    assert (result.status, result.step) == ("diverged", 0)
    assert "soba diverged" in result.sentence
    assert training.Checkpoints(tmp_path / "checkpoints").latest() is None


# A problem of one's own, whose rows say which batches were drawn; and a solver that counts them.
def _counting(config, *, rows=12):
    data = np.arange(rows, dtype=np.float32)
    return bilevel.BilevelTask(
        problem=BilevelProblem(lambda x, y, b: b.sum(), lambda x, y, b: b.sum()),
        init=lambda key: (np.zeros(rows, np.float32), np.zeros(rows, np.float32)),
        outer_data=data,
        inner_data=data + 100.0,
        test=(),
        evaluate=lambda state, test: {"loss": state.sum()},
        finding="counts",
    )


def _counter(outer, inner):
    """Its state is no NamedTuple, and its step takes no batch numbers."""
    del outer, inner

    def step(state, outer_batch, inner_batch, outer_full=(), inner_full=()):
        drawn = outer_batch.ravel().astype(int)
        seen = state.at[0, drawn].add(1.0)
        info = {"shape": seen[0].sum(), "all": jax.numpy.float32(len(outer_full) * len(inner_full))}
        return seen.at[1, inner_batch.ravel().astype(int) - 100].add(1.0), info

    return Solver(lambda key, x, y: jax.numpy.stack([x, y]), step)


def test_every_epoch_sees_every_row_once_and_some_steps_all(monkeypatch, tmp_path):
    bilevel.register_problem("counting", _counting)
    monkeypatch.setattr(_solve, "make_solver", lambda config, problem, **_: _counter(*problem))
    config = bilevel.BilevelConfig(
        steps=12,
        log_every=3,
        eval_every=12,
        checkpoint_every=12,
        outer_batch_size=4,
        inner_batch_size=2,
        inner_batches_per_step=3,
        full_every=5,
        problem=bilevel.PartConfig(name="counting"),
    )
    result = bilevel.solve(config, tmp_path)
    np.testing.assert_array_equal(
        last_leaves(tmp_path)["state"], np.stack([np.full(12, 4.0), np.full(12, 6.0)])
    )
    assert result.tested == {"loss": 48 + 72}
    records = training.read_metrics(result.metrics_path)
    assert [r["shape"] for r in records] == [8, 20, 32, 44]
    assert [r["all"] for r in records] == [48, 48, 0, 48]  # steps 0, 5 and 10


PARTLY_WRONG = bilevel.PartConfig(name="soba", arguments={"outer_directoin": "plain"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solver.name": "sobaa"}, "solver.name 'sobaa' is unknown; did you mean soba"),
        ({"solver.name": "srba"}, "config.full_every must be at least 1 for srba, got 0"),
        ({"solver.name": "amigo", "full_every": 3}, "config.full_every must be 0 .* 'amigo'"),
        ({"solver": PARTLY_WRONG}, "solver.arguments has 'outer_directoin', .* did you mean outer"),
        ({"problem.name": "cleaning"}, "problem.name 'cleaning' is unknown; did you mean"),
        ({"problem.arguments": {"corupted": 0.1}}, "'corupted', which hyper_cleaning does not"),
        ({"problem.arguments.corrupted": 2.0}, "problem.arguments .* corrupted must lie in"),
        ({"problem.arguments.train": 9999}, "problem.arguments train and validation must be"),
        ({"outer_batch_size": 201}, "config.outer_batch_size must not exceed the 200 rows"),
        ({"model.name": "resnet", "model.widths": (128, 128)}, "keeps .* beside its parameters"),
        ({"inner_optimizer.name": "sdg"}, "inner_optimizer.name 'sdg' is unknown"),
        ({"steps": 0}, "config.steps must be at least 1"),
        ({"inner_optimizer.warmup_steps": 121}, "config.inner_optimizer.warmup_steps must not"),
        ({"data.name": "counting"}, "data.name 'counting' has no classes"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        bilevel.solve(small(**changes), tmp_path / "w")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("alternating", {}, "solver.arguments lacks estimator of alternating"),
        ("alternating", {"estimator": "gc()"}, "estimator calls 'gc', which is unknown"),
        ("alternating", {"estimator": "cg(3"}, "estimator must be such as"),
        ("stocbio", {"inner_steps": -1}, "solver.arguments do not suit stocbio: inner_steps"),
        ("soba", {"inner_direction": "spider()"}, "full_every must be at least 1 for spider"),
    ],
)
def test_mistakes_in_a_solver(name, arguments, message):
    config = small(**{"solver.name": name, "solver.arguments": arguments})
    with pytest.raises(ConfigError, match=message):
        bilevel.make_solver(config, _quadratic(), outer_batches=1, inner_batches=1)


def _quadratic():
    return BilevelProblem(lambda x, y, b: (y - 1) ** 2, lambda x, y, b: (y - 2 * x) ** 2)


def test_arguments_may_be_calls():
    arguments = {
        "estimator": "unrolled(sgd(0.4), steps=3, tolerance=None)",
        "inner_direction": "storm(0.5)",
        "project_outer": "box(-1.0, 0.25)",
    }
    config = small(**{"solver.name": "alternating", "solver.arguments": arguments})
    config.outer_optimizer.learning_rate = 0.1
    solver = bilevel.make_solver(config, _quadratic(), outer_batches=1, inner_batches=1)
    state = solver.init(jax.random.key(0), 0.0, 0.0)
    state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=30)
    assert float(state.x) == 0.25  # 0.5 without the box


def test_a_rate_alone_goes_to_a_solver_without_outer_optimizer():
    config = small(**{"solver.name": "bo_rep"})
    bilevel.make_solver(config, _quadratic(), outer_batches=1, inner_batches=1)
    config.outer_optimizer.name = "adam"
    with pytest.raises(ConfigError, match=r"outer_optimizer.name must be 'sgd', .* got 'adam'"):
        bilevel.make_solver(config, _quadratic(), outer_batches=1, inner_batches=1)
