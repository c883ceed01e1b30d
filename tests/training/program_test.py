"""Steps: parts of a batch, bfloat16, statistics beside the parameters, and a mesh."""

import functools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab import training
from optlab.training import (
    ConfigError,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from optlab.training._layout import Layout
from optlab.training._program import compile_program
from optlab.training._pure import Knobs, PureRun, seed_words
from optlab.training.data import Dataset, Examples, epoch_order, load_data
from optlab.transforms.learning_rate_free import averaged_params

RESNET = ModelConfig(name="resnet", width=4, depth=1)


def config(**changes):
    defaults = {
        "steps": 12,
        "batch_size": 64,
        "log_every": 1,
        "eval_every": 12,
        "eval_batch_size": 100,
        "model": ModelConfig(widths=(16, 12)),
        "optimizer": OptimizerConfig(learning_rate=1e-2),
    }
    return training.override(TrainConfig(**defaults), changes)


@functools.cache
def digits():
    return load_data(DataConfig())


def run(cfg, data, steps):
    """The program, its carry after some steps, and the losses of each."""
    rate = training.make_schedule(cfg.optimizer, cfg.steps)
    tx = training.make_optimizer(cfg.optimizer.name, rate, **cfg.optimizer.arguments)
    program = compile_program(cfg, tx, data)
    order = program.place(epoch_order(cfg.seed, 0, len(data.train[0]), cfg.batch_size))
    carry, losses = program.carry, []
    for _ in range(steps):
        carry = program.step(carry, order)
        losses.append(float(carry.sums["loss"]))
    return program, carry, losses


def shardings(tree):
    return [leaf.sharding for leaf in jax.tree.leaves(tree)]


@functools.cache
def reference():
    return run(config(), digits(), 12)


@pytest.mark.parametrize("parts", [2, 16])
def test_parts_of_a_batch_make_the_step_of_the_whole(parts):
    _, whole, losses = reference()
    _, carry, parted = run(config(accumulate=parts), digits(), 12)
    np.testing.assert_allclose(parted, losses, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
        carry.state.params,
        whole.state.params,
    )


def test_a_line_search_sees_all_parts():
    changes = {"optimizer.name": "lbfgs", "optimizer.learning_rate": 1.0}
    _, _, losses = run(config(**changes), digits(), 4)
    _, _, parted = run(config(**changes, accumulate=4), digits(), 4)
    np.testing.assert_allclose(parted, losses, atol=1e-4)


def test_an_optimizer_may_ask_for_gradients_elsewhere():
    def update(updates, state, params, *, grad_fn, **extra):
        del extra
        there = grad_fn(jax.tree.map(jnp.zeros_like, params))
        return jax.tree.map(lambda a, b, c: a - b + c, grad_fn(params), updates, there), state

    tx = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    program = compile_program(config(accumulate=2), tx, digits())
    start = program.copy(program.carry.state.params)
    order = epoch_order(0, 0, len(digits().train[0]), 64)
    moved = optax.tree.sub(program.step(program.carry, program.place(order)).state.params, start)
    # Where all parameters are zero, all gradients are but that of the last bias.
    head = moved["head"].pop("bias")
    labels = digits().train.targets[order[0]]
    shares = np.bincount(labels, minlength=10) / 64
    np.testing.assert_allclose(head, 0.1 - shares, atol=1e-5)
    assert optax.tree.norm(moved) < 1e-5


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_lane_of_its_own_keeps_its_branches(lanes, monkeypatch):
    calls = []

    def rarely(learning_rate):
        def update(updates, state, params=None):
            del params

            def refresh(updates):
                jax.debug.callback(lambda: calls.append(1))
                return updates

            due = state.count % 4 == 0
            updates = jax.lax.cond(due, refresh, lambda updates: updates, updates)
            steps = jax.tree.map(lambda g: -learning_rate * g, updates)
            return steps, optax.ScaleByScheduleState(state.count + 1)

        return optax.GradientTransformation(
            lambda params: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update
        )

    monkeypatch.setitem(sys.modules, "rare", types.SimpleNamespace(make=rarely))
    cfg = config(optimizer=OptimizerConfig(name="rare:make", schedule="constant"), steps=8)
    rates = {"optimizer.learning_rate": jnp.full(lanes, 0.1)}
    knobs = Knobs(jnp.stack([jnp.asarray(seed_words(0))] * lanes), rates)
    program = compile_program(cfg, rarely(0.1), digits(), knobs)
    order = epoch_order(0, 0, len(digits().train[0]), cfg.batch_size)
    carry = program.carry
    for _ in range(8):
        carry = program.step(carry, program.place(np.stack([order] * lanes)))
    jax.block_until_ready(carry)
    jax.effects_barrier()
    assert len(calls) == {1: 2, 2: 8}[lanes]
    assert carry.sums["loss"].shape == (lanes,)
    assert program.evaluate(carry)["loss"].shape == (lanes,)


def test_layer_statistics_are_those_of_the_whole_batch():
    mkor = OptimizerConfig(name="mkor", learning_rate=0.1, statistics=True)
    mesh = MeshConfig(data=2, fsdp=2)
    _, _, losses = run(config(optimizer=mkor), digits(), 6)
    _, _, parted = run(config(optimizer=mkor, accumulate=2, mesh=mesh), digits(), 6)
    np.testing.assert_allclose(parted, losses, atol=1e-5)
    assert losses[-1] < losses[0]


def test_the_average_is_judged_where_the_config_says_so():
    averaged = OptimizerConfig(
        name="experiments.optimizers:averaged",
        learning_rate=1e-2,
        arguments={"base": "adamw", "gamma": 0.0},
    )
    program, carry, _ = run(config(optimizer=averaged, evaluate="average"), digits(), 3)
    mean = averaged_params(carry.state.opt_state, carry.state.params)
    _, last, _ = run(config(), digits(), 3)
    jax.tree.map(np.testing.assert_array_equal, carry.state.params, last.state.params)
    logits, _ = carry.state.apply_fn(mean, carry.rest, digits().test.inputs)
    loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, digits().test.targets)
    np.testing.assert_allclose(program.evaluate(carry)["loss"], loss.mean(), rtol=1e-5)
    with pytest.raises(ConfigError, match="must hold one polynomial average, it holds 0"):
        run(config(evaluate="average"), digits(), 0)


def test_bfloat16_learns_and_draws_the_same_again():
    runs = [run(config(param_dtype="bfloat16"), digits(), 12) for _ in range(2)]
    (_, carry, losses), (_, again, _) = runs
    assert {leaf.dtype for leaf in jax.tree.leaves(carry.state.params)} == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(losses, reference()[2], atol=0.05)
    jax.tree.map(np.testing.assert_array_equal, carry.state.params, again.state.params)


def test_statistics_are_carried_and_serve_the_evaluation():
    program, carry, losses = run(config(model=RESNET), digits(), 12)
    statistics = jax.tree.leaves_with_path(carry.rest)
    assert len(statistics) == 2 * 7
    for path, leaf in statistics:  # means start at zero, variances at one
        assert (leaf != (path[-1].key == "var")).any()
    assert losses[-1] < losses[0]
    assert np.isfinite(program.evaluate(carry)["loss"])


@pytest.mark.parametrize("size", [1, 100, 360, 5000])
def test_evaluation_in_batches_is_that_of_the_whole(size):
    program, carry, _ = run(config(eval_batch_size=size), digits(), 0)
    test = digits().test
    logits, _ = carry.state.apply_fn(carry.state.params, carry.rest, test.inputs)
    logits = np.asarray(logits, np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    loss = -np.log(chances[np.arange(len(logits)), test.targets]).mean()
    means = program.evaluate(carry)
    np.testing.assert_allclose(means["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(means["accuracy"], (logits.argmax(-1) == test.targets).mean())


def test_regression_learns():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(80, 3)).astype(np.float32)
    targets = inputs @ np.float32([1.0, -2.0, 0.5])
    parts = Examples(inputs[:64], targets[:64]), Examples(inputs[64:], targets[64:])
    data = Dataset(*parts, 0, task="regression", target_scale=10.0)
    program, carry, _ = run(config(steps=100), data, 100)
    figures = program.task.derive({k: float(v) for k, v in program.evaluate(carry).items()})
    assert figures["rmse"] < 5.0  # the targets' deviation is 23


@pytest.mark.parametrize(
    ("data", "fsdp", "changes"),
    [
        (4, 1, {}),
        (1, 4, {}),
        (2, 2, {"accumulate": 2}),
        pytest.param(2, 2, {"model": RESNET}, marks=pytest.mark.slow),
        (1, 2, {"param_dtype": "bfloat16"}),
    ],
)
def test_a_mesh_gives_the_losses_of_one_device(data, fsdp, changes):
    one = run(config(**changes), digits(), 12)
    program, carry, losses = run(
        config(**changes, **{"mesh.data": data, "mesh.fsdp": fsdp}), digits(), 12
    )
    tolerance = 1e-5 if "param_dtype" not in changes else 1e-2
    np.testing.assert_allclose(losses, one[2], atol=tolerance)
    np.testing.assert_allclose(
        program.evaluate(carry)["loss"], one[0].evaluate(one[1])["loss"], atol=tolerance
    )
    for leaf in jax.tree.leaves((carry.state.params, carry.state.opt_state)):
        divides = any(n % fsdp == 0 for n in leaf.shape)
        assert leaf.sharding.is_fully_replicated == (fsdp == 1 or not divides)
        assert len(leaf.sharding.device_set) == data * fsdp


def test_moments_lie_where_their_parameters_do():
    _, carry, _ = run(config(**{"mesh.fsdp": 4}), digits(), 1)
    moments = carry.state.opt_state[0].mu
    assert shardings(moments) == shardings(carry.state.params)
    kernel = carry.state.params["hidden"][0]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(16, 16)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh.data": 64}, r"config.mesh of 64 x 1 needs 64 devices, and there are \d\.$"),
        ({"mesh.data": 3}, r"config.batch_size must be a multiple of the 3 devices, got 64\.$"),
        (
            {"mesh.data": 4, "accumulate": 3},
            r"multiple of the 3 parts of accumulate times the 4 devices, got 64\.$",
        ),
        ({"accumulate": 5}, r"config.batch_size must be a multiple of the 5 parts of accumulate"),
        ({"param_dtype": "float16"}, r"config.param_dtype must be float32 or bfloat16, got 'fl"),
        ({"model.name": "gpt"}, r"model.name 'gpt' wants examples of shape \(length\)"),
        ({"model.depth": 2}, r"model.depth is no field of 'mlp'"),
        ({"eval_batch_size": 0}, r"config.eval_batch_size must be at least 1"),
    ],
)
def test_mistakes_are_one_sentence(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        training.train(config(**changes), tmp_path / "w")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "w").exists()


def test_a_mesh_resumes_bit_for_bit(tmp_path):
    cfg = config(steps=10, **{"mesh.data": 2, "mesh.fsdp": 2, "checkpoint_every": 5})

    def bits(workdir):
        like = run(cfg, digits(), 0)[1]
        carry = training.Checkpoints(workdir / "checkpoints").restore(10, like)
        assert shardings(carry) == shardings(like)
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(carry)]

    class Killed(Exception):
        pass

    def kill(record):
        if record["step"] == 7:
            raise Killed

    training.train(cfg, tmp_path / "whole")
    with pytest.raises(Killed):
        training.train(cfg, tmp_path / "killed", on_record=kill)
    assert training.train(cfg, tmp_path / "killed").resumed_at == (5,)
    assert bits(tmp_path / "killed") == bits(tmp_path / "whole")


def texts():
    """Sequences of tokens in two classes."""
    inputs = np.random.default_rng(0).integers(7, size=(64, 5)).astype(np.int32)
    examples = Examples(inputs, (inputs[:, 0] > 3).astype(np.int32))
    return Dataset(examples, examples, 2, vocabulary=tuple("abcdefg"))


def test_a_classifier_of_texts_is_told_the_vocabulary():
    model = ModelConfig(name="lstm", width=8)
    run = PureRun(config(model=model), optax.sgd(0.1), texts(), Layout(MeshConfig()))
    carry = jax.eval_shape(run.init, seed_words(0))
    assert carry.state.params["embedding"].shape == (7, 8)
    assert carry.state.params["head"]["kernel"].shape == (8, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlp", r"^model.name 'mlp' cannot classify sequences of tokens\."),
        ("cnn", "wants examples of shape"),
    ],
)
def test_other_models_refuse_texts(name, message):
    with pytest.raises(ConfigError, match=message):
        PureRun(config(model=ModelConfig(name=name)), optax.sgd(0.1), texts(), Layout(MeshConfig()))
