"""Gradients with spikes, for methods that promise to bear them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab.training import make_optimizer


class SpikesState(NamedTuple):
    """State of :func:`spikes`."""

    count: jax.Array  # shape=(), dtype=int32


def spiked(
    learning_rate: optax.ScalarOrSchedule,
    optimizer: str,
    spike: float = 1000.0,
    chance: float = 0.05,
    share: float = 0.05,
    **arguments: Any,
) -> optax.GradientTransformation:
    """An optimizer, by name, of gradients with spikes: see :func:`spikes`."""
    return optax.chain(
        spikes(spike, chance=chance, share=share),
        make_optimizer(optimizer, learning_rate, **arguments),
    )


def spikes(
    size: float, *, chance: float, share: float, seed: int = 0
) -> optax.GradientTransformation:
    """At random steps, multiplies random entries of the gradient by ``size``.

    Args:
        size: of a spike, relative to the entry.
        chance: of a step to have spikes.
        share: of the entries that have one in such a step.
        seed: of the steps and entries, which are the same for all optimizers.

    Returns:
        The transformation.
    """

    def init(params):
        del params
        return SpikesState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        del params
        step, entries = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.count))
        due = jax.random.bernoulli(step, chance)

        def leaf(g, key):
            return jnp.where(due & jax.random.bernoulli(key, share, g.shape), size * g, g)

        updates = jax.tree.map(leaf, updates, optax.tree.split_key_like(entries, updates))
        return updates, SpikesState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)
