"""Steps per second of the loop beside a loop written by hand for one model and one optimizer."""

import functools
import statistics
import time

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from optlab import training
from optlab.training import DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from optlab.training.data import epoch_order, load_data
from optlab.training.models import MLP, functional

# A step of some 2 ms: our own work, the figures that a bare loop does not keep among it, is some
# 40 microseconds of it.
STEPS, TURNS, BATCH, WIDTHS = 200, 25, 128, (512, 512)


def bare_loop():
    """What one would write by hand; gives a function that trains and tells its steps a second."""
    data = jax.device_put(load_data(DataConfig()).train)
    model = functional(lambda key: MLP((8, 8, 1), WIDTHS, 10, rngs=nnx.Rngs(key)))
    tx = optax.adamw(1e-3)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(carry, data, order):
        params, state, count = carry
        rows = order[count % len(order)]

        def loss_fn(params):
            logits, _ = model.apply(params, {}, data.inputs[rows])
            return optax.losses.softmax_cross_entropy_with_integer_labels(
                logits, data.targets[rows]
            ).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state, count + 1), loss

    params, _ = model.init(jax.random.key(0))
    count = len(data.targets)
    order = jnp.asarray(epoch_order(0, 0, count, BATCH))
    carry, _ = step((params, tx.init(params), jnp.int32(0)), data, order)

    def run():
        nonlocal carry, order  # it trains on, as ours does: small gradients take longer
        jax.block_until_ready(carry)
        began = time.perf_counter()
        for t in range(STEPS):
            if t % (count // BATCH) == 0:
                order = jnp.asarray(epoch_order(0, t, count, BATCH))
            carry, _ = step(carry, data, order)
        jax.block_until_ready(carry)
        return STEPS / (time.perf_counter() - began)

    return run


def relative_speed(log_every, workdir, bare):
    """The speed of our loop over that of the bare one, in turns of ``STEPS``.

    The bare loop runs while ours waits in ``on_record``: a busy machine disturbs both alike. Lines
    are counted in, but not the one that only ends a turn.
    """
    ratios, resumed = [], 0.0

    def on_record(record):
        nonlocal resumed
        if record["step"] % STEPS:
            return
        ours = STEPS / (time.perf_counter() - resumed)
        if log_every == STEPS:
            ours = record["steps_per_second"]
        theirs = bare()
        if record["step"] > STEPS:  # the first turn has the start in it
            ratios.append(ours / theirs)
        resumed = time.perf_counter()

    config = TrainConfig(
        steps=TURNS * STEPS + 1,  # the last step's evaluation and checkpoint belong to no turn
        batch_size=BATCH,
        log_every=log_every,
        eval_every=TURNS * STEPS + 1,
        checkpoint_every=TURNS * STEPS + 1,
        model=ModelConfig(widths=WIDTHS),
        optimizer=OptimizerConfig(schedule="constant"),
    )
    training.train(config, workdir, on_record=on_record)
    return statistics.median(ratios)


@pytest.mark.slow
@pytest.mark.parametrize(("log_every", "least"), [(STEPS, 0.95), (50, 0.90)], ids=["off", "on"])
def test_the_loop_costs_little(log_every, least, tmp_path):
    ratio = relative_speed(log_every, tmp_path, bare_loop())
    print(f"{ratio:.3f} of the bare loop's steps a second")
    assert ratio > least
