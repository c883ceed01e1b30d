"""Optimizers and schedules by name."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import optlab
from experiments.optimizers import averaged
from optlab import training
from optlab.training import OptimizerConfig


@pytest.mark.parametrize(
    ("name", "factory", "arguments"),
    [
        ("adamw", optax.adamw, {"weight_decay": 0.1}),
        ("sgd", optax.sgd, {"momentum": 0.9, "nesterov": True}),
        ("polyak_sgd", optax.polyak_sgd, {"f_min": 0.0}),
        ("optax.contrib.muon", optax.contrib.muon, {"beta": 0.9}),
        ("optax.signum", optax.signum, {}),
        ("signum", optlab.signum, {"weight_decay": 0.1}),
        ("lion_k", optlab.lion_k, {"kappa": "l2"}),
        ("optax:adamw", optax.adamw, {"weight_decay": 0.1}),
        ("experiments.optimizers:averaged", averaged, {"base": "sgd", "momentum": 0.9}),
    ],
)
def test_builds_what_the_factory_builds(name, factory, arguments):
    params = {"w": jnp.arange(6.0).reshape(2, 3) - 2.0}
    updates = []
    for tx in (training.make_optimizer(name, 0.1, **arguments), factory(0.1, **arguments)):
        tx = optax.with_extra_args_support(tx)
        updates.append(tx.update(params, tx.init(params), params, value=jnp.float32(1.0))[0])
    jax.tree.map(np.testing.assert_array_equal, *updates)


def test_every_optlab_optimizer_is_known():
    names = set(training.optimizers())
    assert {method.name for method in optlab.catalog.OPTIMIZERS} <= names
    assert "lion_k_lyapunov" not in names  # takes a learning rate, but gives a function


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("adanw", {}, r"optimizer.name 'adanw' is unknown; did you mean .*\badamw\b"),
        ("optax.adan1", {}, r"did you mean .*optax\.adan\b"),
        ("scale_by_adam", {}, "is unknown"),
        (
            "adamw",
            {"weigth_decay": 0.1},
            "'weigth_decay', which adamw .* did you mean weight_decay",
        ),
        ("adamw", {"learning_rate": 0.1}, "'learning_rate', which adamw does not take"),
        ("dpsgd", {"seed": 0}, "lacks l2_norm_clip, noise_multiplier of dpsgd"),
        ("lion_k", {"kappa": "l7"}, "optimizer.arguments do not suit lion_k"),
        ("no.module:make", {}, "'no.module:make' cannot be imported: No module named 'no'"),
        ("optax:adamm", {}, "'optax:adamm' cannot be imported: module 'optax' has no"),
        ("math:sqrt", {}, "'math:sqrt' is no function of a learning_rate"),
        ("experiments.optimizers:averaged", {}, "lacks base of"),
        ("experiments.optimizers:averaged", {"base": "adamm"}, "'adamm' is unknown"),
    ],
)
def test_mistakes_are_one_sentence(name, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        training.make_optimizer(name, 0.1, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
@pytest.mark.parametrize("warmup", [0, 4])
def test_schedule_ends_where_it_should(schedule, warmup):
    config = OptimizerConfig(learning_rate=0.5, schedule=schedule, warmup_steps=warmup)
    rate = training.make_schedule(config, 20)
    if schedule == "constant" and not warmup:
        assert rate == 0.5
        return
    assert rate(0) == (0.0 if warmup else 0.5)
    assert rate(warmup) == 0.5
    np.testing.assert_allclose(rate(20), 0.5 if schedule == "constant" else 0.0, atol=1e-7)


def test_unknown_schedule():
    with pytest.raises(ValueError, match=r"optimizer.schedule 'cosin' .* did you mean cosine\?"):
        training.make_schedule(OptimizerConfig(schedule="cosin"), 10)
