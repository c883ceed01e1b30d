"""The contract can fail: each planted fault is caught by the check meant for it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

from tests.contract.case import Case
from tests.contract.checks import CHECKS, label


class State(NamedTuple):
    """State of the optimizer below; ``extra`` is where faults put theirs."""

    mu: Any  # like params
    extra: Any = None


def _init(params):
    return State(mu=optax.tree.zeros_like(params))


def _update(gradients, state, params=None):
    del params
    mu = jax.tree.map(lambda m, g: (0.9 * m + 0.1 * g).astype(m.dtype), state.mu, gradients)
    return jax.tree.map(lambda m, g: m.astype(g.dtype), mu, gradients), state._replace(mu=mu)


def _case(name, *, init=_init, update=_update):
    def momentum(learning_rate):
        transform = optax.GradientTransformation(init, update)
        return optax.chain(transform, optax.scale_by_learning_rate(learning_rate))

    return Case(name, momentum, {"learning_rate": 1e-2}, state_bytes=4.0)


def _with_extra(make, step=lambda extra: extra):
    """Puts ``make(params)`` into the state, and ``step`` of it after each update."""

    def init(params):
        return _init(params)._replace(extra=make(params))

    def update(gradients, state, params=None):
        updates, new_state = _update(gradients, state, params)
        return updates, new_state._replace(extra=step(state.extra))

    return {"init": init, "update": update}


def _with_updates(change):
    """Puts ``change(updates, gradients)`` in place of the updates."""

    def update(gradients, state, params=None):
        updates, state = _update(gradients, state, params)
        return change(updates, gradients), state

    return {"update": update}


def _shared_buffer():
    def init(params):
        mu = optax.tree.zeros_like(params)
        return State(mu=mu, extra=mu)

    return {"init": init}


def _low_precision_init():
    def init(params):
        return State(mu=optax.tree.zeros_like(params, dtype=jnp.bfloat16))

    def update(gradients, state, params=None):
        state = State(mu=jax.tree.map(lambda m, g: m.astype(g.dtype), state.mu, gradients))
        return _update(gradients, state, params)

    return {"init": init, "update": update}


def _state_dropped():
    def update(gradients, state, params=None):
        updates, state = _update(gradients, state, params)
        return updates, state.mu

    return {"update": update}


@jax.tree_util.register_static
class Static(NamedTuple):
    """A count that is part of the structure: each value is another type."""

    count: int


def _counter():
    calls = [0]

    def change(updates, gradients):
        del gradients
        calls[0] += 1
        return jax.tree.map(lambda u: u / calls[0], updates)

    return _with_updates(change)


def _keeps_tracer():
    kept = []

    def change(updates, gradients):
        kept.append(gradients)
        return updates

    return _with_updates(change)


def _keeps_size():
    seen = {}

    def init(params):
        seen["size"] = len(params)
        return _init(params)

    def update(gradients, state, params=None):
        updates, state = _update(gradients, state, params)
        return optax.tree.scale(1.0 / seen["size"], updates), state

    return {"init": init, "update": update}


def _normalized(updates, gradients):
    del gradients
    return jax.tree.map(lambda u: u / jnp.sqrt(jnp.sum(u * u)), updates)


def _eager_only(updates, gradients):
    def leaf(u, g):
        return u if isinstance(g, jax.core.Tracer) else 1.01 * u

    return jax.tree.map(leaf, updates, gradients)


def _recast(dtype):
    return _with_updates(lambda updates, _: jax.tree.map(lambda u: u.astype(dtype), updates))


def _gathered(updates, gradients):
    del gradients
    if jax.sharding.get_abstract_mesh().empty:
        return updates
    return jax.lax.with_sharding_constraint(updates, jax.sharding.PartitionSpec())


# Fault -> overrides of the faultless optimizer, the check meant for it, what the check must say.
FAULTS = {
    "state aliases params": (
        lambda: _with_extra(lambda params: params),
        "state_never_aliases",
        "aliases the params",
    ),
    "state aliases itself": (_shared_buffer, "state_never_aliases", "share one buffer"),
    "aliased state donated": (
        lambda: _with_extra(lambda params: params),
        "donation",
        "cannot be donated",
    ),
    "donated without use": (
        lambda: _with_extra(lambda _: jnp.zeros(7), lambda x: x[0]),
        "donation",
        "not usable",
    ),
    "dtype drifts": (_low_precision_init, "state_types_fixed", "bfloat16"),
    "dtype drifts in a scan": (_low_precision_init, "scan_equals_loop", "carried by a scan"),
    "structure drifts": (_state_dropped, "state_types_fixed", "another structure"),
    "weak type drifts": (
        lambda: _with_extra(lambda _: jnp.asarray(1.0), lambda x: x * jnp.float32(0.5)),
        "state_types_fixed",
        "float32', True",
    ),
    "second trace": (
        lambda: _with_extra(lambda _: Static(0), lambda static: Static(static.count + 1)),
        "one_trace",
        "took 3 traces",
    ),
    "second trace by weak type": (
        lambda: _with_extra(lambda _: jnp.asarray(1.0), lambda x: x * jnp.float32(0.5)),
        "one_trace",
        "took 2 traces",
    ),
    "leaves of the params in a tuple": (
        lambda: _with_extra(lambda params: tuple(map(jnp.zeros_like, jax.tree.leaves(params)))),
        "map_params",
        "does not know the state",
    ),
    "NaN at zero gradient": (
        lambda: _with_updates(_normalized),
        "gradient_scales",
        "scale 0: .*nan",
    ),
    "result depends on a counter": (_counter, "pure", "second update"),
    "tracer kept": (_keeps_tracer, "pure", "keeps a tracer"),
    "size of the tree kept": (_keeps_size, "pure", "second update"),
    "updates in bfloat16": (
        lambda: _recast(jnp.bfloat16),
        "updates_like_gradients",
        "An update is bfloat16",
    ),
    "updates in float32": (lambda: _recast(jnp.float32), "bfloat16", "the updates are"),
    "updates in float64": (lambda: _recast(float), "x64", "float32 updates become"),
    "state in float64": (
        lambda: _with_extra(lambda _: jnp.zeros((), dtype=float)),
        "x64",
        "float64 state",
    ),
    "more bytes than promised": (
        lambda: _with_extra(optax.tree.zeros_like),
        "state_bytes",
        "takes 8 bytes per parameter, 4 are promised",
    ),
    "Python number in the state": (
        lambda: _with_extra(lambda _: 0.5),
        "state_is_arrays",
        "holds a float",
    ),
    "typed key in the state": (
        lambda: _with_extra(lambda _: jax.random.key(0)),
        "state_is_arrays",
        "typed random key",
    ),
    "eager differs from jit": (
        lambda: _with_updates(_eager_only),
        "jit_equals_eager",
        "Under jit",
    ),
    "ascent": (
        lambda: _with_updates(lambda updates, _: optax.tree.scale(-1.0, updates)),
        "convergence",
        "the loss falls from",
    ),
    "updates not sharded": (lambda: _with_updates(_gathered), "sharding_auto", "The updates at"),
}

BY_LABEL = {label(check): check for check in CHECKS}


@pytest.mark.parametrize("check", CHECKS, ids=label)
def test_faultless_optimizer_passes(check):
    check(_case("faultless"))


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_caught(fault):
    overrides, name, sentence = FAULTS[fault]
    with pytest.raises(AssertionError, match=sentence):
        BY_LABEL[name](_case(fault, **overrides()))
