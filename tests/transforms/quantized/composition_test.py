"""Quantized states around other families, inside optax's wrappers, in Flax and in the trainer."""

import os
import signal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optlab
from optlab import training
from optlab.base import Encoded
from optlab.training import ModelConfig, OptimizerConfig, TrainConfig, TrainState
from optlab.training._program import compile_program
from optlab.training.data import load_data
from optlab.training.models import LinenStableEmbedding, StableEmbedding
from optlab.transforms import quantized
from optlab.transforms.quantized import quantize_states

TARGET = jnp.asarray(np.random.default_rng(0).normal(size=(16, 512)), jnp.float32)


def descend(tx, steps=60):
    """The loss of a quadratic before and after, and the last state."""

    def loss(x):
        return 0.5 * jnp.mean((x["w"] - TARGET) ** 2) + 0.5 * jnp.mean(x["b"] ** 2)

    def step(carry, _):
        x, state = carry
        value, grads = jax.value_and_grad(loss)(x)
        x, state = optlab.step(tx, x, grads, state, value=value, grad=grads, value_fn=loss)
        return (x, state), value

    x = {"w": jnp.zeros_like(TARGET), "b": jnp.ones(8)}
    run = jax.jit(lambda x: jax.lax.scan(step, (x, tx.init(x)), length=steps))
    (x, state), losses = run(x)
    return losses[0], loss(x), state


def count_coded(state):
    leaves = jax.tree.leaves(state, is_leaf=lambda n: isinstance(n, Encoded))
    return sum(isinstance(leaf, Encoded) for leaf in leaves)


LOW_RANK = {"rank": 8, "update_interval": 20, "scale": 1.0}
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("tx", "coded"),
    [
        (quantize_states(optax.contrib.prodigy()), 2),
        (quantize_states(optlab.fira(0.1, **LOW_RANK), min_size=64), 2),
        (optlab.lion_k8bit(0.03, "l2"), 1),
        pytest.param(quantize_states(optlab.galore(0.1, **LOW_RANK), min_size=64), 2, marks=SLOW),
        pytest.param(quantize_states(optlab.dct_adamw(0.1, rank=8), min_size=64), 2, marks=SLOW),
        pytest.param(quantize_states(optlab.exadam(0.1)), 2, marks=SLOW),
        pytest.param(quantize_states(optlab.stable_spam(0.1)), 2, marks=SLOW),
        pytest.param(quantize_states(optlab.prodigy()), 2, marks=SLOW),
        pytest.param(quantize_states(optlab.muon(0.03)), 1, marks=SLOW),
        pytest.param(optlab.lion_k8bit(0.03, "huber(0.1)"), 1, marks=SLOW),
        pytest.param(optlab.lion_k8bit(0.03, "nuclear"), 1, marks=SLOW),
        pytest.param(
            optax.partition(
                {"w": optlab.adamw8bit(0.1), "b": optax.sgd(1.0)}, {"w": "w", "b": "b"}
            ),
            2,
            marks=SLOW,
        ),
        pytest.param(
            optax.MultiSteps(optlab.adamw8bit(0.1), 2).gradient_transformation(), 2, marks=SLOW
        ),
        pytest.param(
            optax.chain(optax.clip_by_global_norm(1.0), optlab.adamw8bit(0.1)), 2, marks=SLOW
        ),
        pytest.param(optax.inject_hyperparams(optlab.adamw8bit)(0.1), 2, marks=SLOW),
    ],
)
def test_trains_with_coded_moments(tx, coded):
    first, last, state = descend(tx)
    assert last < 0.7 * first
    assert count_coded(state) == coded


def test_no_state_is_the_parameters():
    """optax's prodigy keeps them; what is donated twice is refused."""
    params = {"w": jnp.ones(4)}
    state = quantize_states(optax.contrib.prodigy()).init(params)
    assert all(leaf is not params["w"] for leaf in jax.tree.leaves(state))


def test_nnx_and_linen_models_train():
    """Embeddings keep their moments in float32, all else in eight bits."""
    tokens = jax.random.randint(jax.random.key(0), (64, 4), 0, 40)
    tx = optlab.adamw8bit(1e-2, where=quantized.all_but_embeddings, min_size=256)

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.embedding = StableEmbedding(40, 32, rngs=rngs)
            self.head = nnx.Linear(32, 40, rngs=rngs)

        def __call__(self, tokens):
            return self.head(self.embedding(tokens))

    def loss_of(logits):
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens).mean()

    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    first = loss_of(model(tokens))

    @nnx.jit
    def step(model, optimizer):
        gradients = nnx.grad(lambda m: loss_of(m(tokens)))(model)
        optimizer.update(model, gradients, in_place=True)

    for _ in range(20):
        step(model, optimizer)
    assert loss_of(model(tokens)) < 0.6 * first

    class Linen(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            return nn.Dense(40, name="head")(LinenStableEmbedding(40, 32, name="embedding")(tokens))

    linen = Linen()
    params = linen.init(jax.random.key(0), tokens)["params"]
    state = TrainState.create(apply_fn=linen.apply, params=params, tx=tx)
    first = loss_of(linen.apply({"params": params}, tokens))

    @jax.jit
    def linen_step(state):
        def loss(params):
            return loss_of(state.apply_fn({"params": params}, tokens))

        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    for _ in range(20):
        state = linen_step(state)
    assert loss_of(linen.apply({"params": state.params}, tokens)) < 0.6 * first
    adam = state.opt_state.inner[0]
    assert adam.mu["embedding"]["embedding"].dtype == jnp.float32
    assert adam.mu["head"]["kernel"].code.dtype == jnp.int8


def test_stable_embedding_is_normalised():
    embedding = StableEmbedding(10, 64, rngs=nnx.Rngs(0))
    out = embedding(jnp.arange(10), dtype=jnp.bfloat16)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32).std(axis=-1), 1.0, atol=2e-2)
    bound = (6 / (10 + 64)) ** 0.5
    assert 0.9 * bound < jnp.abs(embedding.embedding[...]).max() <= bound


def config(**arguments):
    return TrainConfig(
        steps=12,
        batch_size=32,
        log_every=4,
        eval_every=12,
        checkpoint_every=4,
        model=ModelConfig(widths=(128,)),
        optimizer=OptimizerConfig(name="adamw8bit", learning_rate=1e-2, arguments=arguments),
    )


def last_carry(workdir, config):
    rate = training.make_schedule(config.optimizer, config.steps)
    tx = training.make_optimizer("adamw8bit", rate, **config.optimizer.arguments)
    like = compile_program(config, tx, load_data(config.data)).carry
    carry = training.Checkpoints(workdir / "checkpoints").restore(config.steps, like)
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(carry)]


def test_the_trainer_resumes_bit_for_bit(tmp_path):
    rounded = config(seed=0)
    whole = training.train(rounded, tmp_path / "whole")
    assert 2.0 < whole.state_bytes_per_parameter < 3.2  # the small leaves are in float32

    def kill(record):
        if record["step"] == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    training.train(rounded, tmp_path / "killed", on_record=kill)
    assert training.train(rounded, tmp_path / "killed").resumed_at
    assert last_carry(tmp_path / "killed", rounded) == last_carry(tmp_path / "whole", rounded)
