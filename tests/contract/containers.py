"""Where states live: Flax nnx and linen trainers, msgpack and orbax checkpoints."""

import functools
import tempfile
from pathlib import Path

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.training.train_state import TrainState
from orbax.checkpoint import v1 as ocp

from tests.contract.case import (
    Case,
    avals,
    expect,
    expect_close,
    expect_identical,
    like,
    small_tree,
)

__all__ = ["check_linen", "check_msgpack", "check_nnx", "check_orbax"]

FEATURES, OUTPUTS, STEPS = 4, 8, 3  # the shapes of small_tree, which these checks can then share


def _data():
    inputs = jax.random.normal(jax.random.key(0), (8, FEATURES))
    return inputs, jnp.tanh(inputs @ jax.random.normal(jax.random.key(1), (FEATURES, OUTPUTS)))


def _weights() -> dict:
    return small_tree() | {"bias": jnp.zeros(OUTPUTS)}


def _loss(predictions, targets):
    return jnp.mean((predictions - targets) ** 2)


def _expect_trained(case: Case, trained: dict, what: str) -> None:
    """Expects ``trained`` to have moved as the same linear model does on bare arrays."""
    inputs, targets = _data()
    params = _weights()
    gradient = jax.grad(lambda p: _loss(inputs @ p["kernel"] + p["bias"][None], targets))
    state = case.tx.init(params)
    for _ in range(STEPS):
        updates, state = case.update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
    moves = (optax.tree.sub(p, _weights()) for p in (trained, params))
    expect_close(*moves, what)


def check_nnx(case: Case) -> None:
    """Under nnx.Optimizer, split and jitted, training is that of bare arrays."""
    inputs, targets = _data()
    model = nnx.Linear(FEATURES, OUTPUTS, rngs=nnx.Rngs(0))
    nnx.update(model, nnx.State({name: nnx.Param(value) for name, value in _weights().items()}))
    optimizer = nnx.Optimizer(model, case.tx, wrt=nnx.Param)
    graph, values = nnx.split((model, optimizer))

    @jax.jit
    def step(values):
        model, optimizer = nnx.merge(graph, values)
        gradients = nnx.grad(lambda m: _loss(m(inputs), targets))(model)
        optimizer.update(model, gradients)
        return nnx.state((model, optimizer))

    before = avals(values)
    for _ in range(STEPS):
        values = step(values)
    expect(avals(values) == before, "Under Flax nnx the types of the state change in a step.")
    trained = nnx.to_pure_dict(nnx.state(nnx.merge(graph, values)[0], nnx.Param))
    _expect_trained(case, trained, "Under nnx.Optimizer")


def check_linen(case: Case) -> None:
    """In a donated linen train state training is that of bare arrays."""
    inputs, targets = _data()
    model = nn.Dense(OUTPUTS)
    state = TrainState.create(apply_fn=model.apply, params=_weights(), tx=case.tx)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state):
        gradient = jax.grad(lambda p: _loss(state.apply_fn({"params": p}, inputs), targets))
        return state.apply_gradients(grads=gradient(state.params))

    for _ in range(STEPS):
        state = step(state)
    _expect_trained(case, state.params, "In a linen train state")


def _expect_continues(case: Case, restore, what: str) -> None:
    params = small_tree()
    first, second = (like(params, seed=seed) for seed in (1, 2))
    _, state = case.update(first, case.tx.init(params), params)
    restored = restore(state, case.tx.init(params))
    same = jax.tree.structure(restored) == jax.tree.structure(state)
    expect(same, f"{what} the state has another structure.")
    expect_identical(restored, state, f"{what} the state")
    want = case.update(second, state, params)
    expect_identical(case.update(second, restored, params), want, f"{what} the next step")


def check_msgpack(case: Case) -> None:
    """A state restored from Flax's msgpack goes on bit for bit."""

    def restore(state, fresh):
        restored = flax.serialization.from_bytes(fresh, flax.serialization.to_bytes(state))
        return jax.tree.map(jnp.asarray, restored)

    _expect_continues(case, restore, "After msgpack")


def check_orbax(case: Case) -> None:
    """A state restored from an orbax checkpoint goes on bit for bit."""

    def restore(state, fresh):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder).absolute() / "state"
            ocp.save(path, state)
            return ocp.load(path, fresh)

    _expect_continues(case, restore, "After orbax")
