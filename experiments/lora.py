"""LoRA, which low-rank methods are compared with, as a transformation of the whole kernels."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Adapter(NamedTuple):
    """A product of low rank that stands beside a kernel [m, n]."""

    b: jax.Array  # shape=(m, r), zero at first
    a: jax.Array  # shape=(r, n)


class LoraState(NamedTuple):
    """State of :func:`lora`."""

    adapters: Any  # an Adapter for each matrix, what was added so far for other leaves
    inner: optax.OptState  # Adam's, of the adapters


def lora(
    learning_rate: optax.ScalarOrSchedule, rank: int, seed: int = 0
) -> optax.GradientTransformation:
    """Moves each matrix by the change of a product BA that Adam trains, and other leaves by Adam.

    The matrix is then at all times its first value plus BA: E. J. Hu et al., "LoRA: Low-Rank
    Adaptation of Large Language Models", ICLR 2022, arXiv:2106.09685.
    """
    adam = optax.adam(learning_rate)

    def product(x):
        return x.b @ x.a if isinstance(x, Adapter) else x

    def init(params):
        def leaf(p, key):
            if p.ndim != 2:
                return jnp.zeros_like(p)
            a = jax.random.normal(key, (rank, p.shape[1]), p.dtype) / rank**0.5
            return Adapter(jnp.zeros((p.shape[0], rank), p.dtype), a)

        keys = optax.tree.split_key_like(jax.random.key(seed), params)
        adapters = jax.tree.map(leaf, params, keys)
        return LoraState(adapters, adam.init(adapters))

    def update(updates, state, params=None):
        del params

        def slope(g, x):
            return Adapter(g @ x.a.T, x.b.T @ g) if isinstance(x, Adapter) else g

        slopes = jax.tree.map(slope, updates, state.adapters)
        moves, inner = adam.update(slopes, state.inner)
        adapters = optax.apply_updates(state.adapters, moves)
        changes = jax.tree.map(
            lambda g, new, old: product(new) - product(old), updates, adapters, state.adapters
        )
        return changes, LoraState(adapters, inner)

    return optax.GradientTransformation(init, update)
