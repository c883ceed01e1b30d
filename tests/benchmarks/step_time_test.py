"""The step benchmark: what it counts, the order of its table, and its errors."""

import json
import math
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import _measure, _methods, _report
from optlab import catalog

ROOT = pathlib.Path(__file__).parents[2]
SIZE = 2_000
METHODS = "lion,lion_k,optax.contrib.dog"  # dog's state begins as the parameters themselves


@pytest.fixture(scope="module")
def result():
    methods = _methods.parse_methods(METHODS)
    return _measure.measure(methods, parameters=SIZE, repeats=4, seconds=60.0)


def _run(*flags):
    command = [sys.executable, "-m", "benchmarks.step_time", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("parameters", [1_000, 4_321, 100_000, 16_000_000, 124_439_808])
def test_shapes_add_up(parameters):
    shapes = _measure.transformer_shapes(parameters)
    (width,) = shapes["norm/scale"]
    assert abs(sum(map(math.prod, shapes.values())) - parameters) <= width / 2
    assert min(map(min, shapes.values())) >= 1


def test_state_bytes_are_exact(result):
    count = result["parameters"]
    state_bytes = {row["method"]: row["state_bytes"] for row in result["rows"]}
    assert state_bytes["optax.adamw"] == 8 * count + 4  # a step count
    assert state_bytes["optax.lion"] == 4 * count + 4
    assert state_bytes["optlab.lion_k"] == 4 * count
    for row in result["rows"]:
        assert row["state_bytes_per_parameter"] == row["state_bytes"] / count


def test_temp_bytes_count_what_an_update_materialises():
    def cube(updates, params):
        return jax.tree.map(lambda g: g @ (g.T @ g) if g.ndim == 2 else g, updates)

    transforms = {_methods.BASELINE: optax.adamw(1e-3), "cube": optax.stateless(cube)}
    methods = {name: _methods.Subject(tx) for name, tx in transforms.items()}
    shapes = _measure.transformer_shapes(SIZE)
    result = _measure.measure(methods, parameters=SIZE, repeats=1, seconds=1.0)
    (temp,) = (row["temp_bytes"] for row in result["rows"] if row["method"] == "cube")
    assert temp >= 4 * max(shape[-1] ** 2 for shape in shapes.values() if len(shape) == 2)


def test_a_step_donates_parameters_and_state():
    params = {"w": jnp.ones((4, 3))}
    stepper = _measure._Stepper(_methods.Subject(optax.adamw(1e-3)), params, params)
    before = jax.tree.leaves((stepper.params, stepper.state))
    assert stepper.seconds(2) > 0
    assert all(leaf.is_deleted() for leaf in before)
    assert not params["w"].is_deleted()


def test_times_are_quartiles_against_the_baseline(result):
    rows = {row["method"]: row for row in result["rows"]}
    assert rows["optax.adamw"]["ratio"] == {"median": 1.0, "lower": 1.0, "upper": 1.0}
    for row in rows.values():
        assert row["samples"] == 4
        time = row["ns_per_parameter"]
        assert 0 < time["lower"] <= time["median"] <= time["upper"]


def test_slow_methods_take_fewer_samples_and_the_table_says_so():
    methods = _methods.parse_methods("lion")
    result = _measure.measure(methods, parameters=SIZE, repeats=7, seconds=1e-6)
    assert [row["samples"] for row in result["rows"]] == [3, 3]
    assert "`: 3 samples, to stay within" in _report.table(result)


def test_table_puts_the_fastest_first(result):
    lines = [line for line in _report.table(result).splitlines() if line.startswith("| `")]
    medians = [float(line.split("|")[2].split("[")[0].replace(",", "")) for line in lines]
    assert len(lines) == len(result["rows"])
    assert medians == sorted(medians)


def test_command_writes_json_table_and_plot(tmp_path):
    out = tmp_path / "new" / "step"
    flags = (f"--methods={METHODS}", f"--parameters={SIZE}", "--repeats=3", f"--out={out}")
    done = _run(*flags)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.with_suffix(".json").read_text())
    assert {row["method"] for row in result["rows"]} == set(_methods.parse_methods(METHODS))
    assert {"date", "versions", "device", "cpu_count", "baseline"} <= result.keys()
    assert result["versions"]["jax"] == jax.__version__
    assert out.with_suffix(".md").read_text() == _report.table(result)
    assert _report.table(result) in done.stdout
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--methods=lionn", ("--methods", "did you mean lion", "lion_k")),
        ("--methods=lion(bb1=0.5)", ("--methods", "optax.lion", "bb1", "b1")),
        pytest.param("--methods=lion(", ("--methods",), marks=pytest.mark.slow),
        pytest.param("--methods=", ("--methods must name",), marks=pytest.mark.slow),
        ("--parameters=3", ("--parameters", "3")),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, flag, words):
    out = tmp_path / "new" / "step"
    done = _run(flag, f"--out={out}")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert all(word in done.stderr for word in words)
    assert not out.parent.exists()


def test_names_and_arguments():
    methods = _methods.parse_methods("signum, optax.signum, lion_k(kappa='l2', b1=0.5), muon")
    assert list(methods) == [
        "optax.adamw",
        "optlab.signum",
        "optax.signum",
        "optlab.lion_k(kappa='l2', b1=0.5)",
        "optlab.muon",
    ]


STEPLESS = {"lora_sb", "sso", "tract_dense"}  # adapters to train, a solver and a layer


def test_by_default_every_transform_is_measured():
    rows = [r for r in catalog.METHODS if r.family.startswith("transforms.")]
    measured = {label.partition("(")[0] for label in _methods.parse_methods(_methods.DEFAULT)}
    assert measured >= {f"optlab.{row.name}" for row in rows if row.name not in STEPLESS}


@pytest.mark.parametrize(
    "text",
    [
        "mkor_h",
        "n_harpg",
        "sparse_spectral(rank=2)",
        "limit_norm_growth",
        "percentile_clip(history=3)",
        "polynomial_averaging",
    ],
)
def test_what_needs_more_than_gradients_is_given_it(text):
    *_, subject = _methods.parse_methods(text).values()
    assert subject.note
    shapes = _measure.transformer_shapes(SIZE)
    params = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    trained, extra = subject.trained(params), subject.extra(params)
    update = optax.with_extra_args_support(subject.tx).update
    updates, _ = jax.eval_shape(
        lambda g, p: update(g, subject.tx.init(p), p, value=jnp.ones(()), **extra), trained, trained
    )
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, trained)
