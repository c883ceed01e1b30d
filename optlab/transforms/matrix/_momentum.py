"""What the family's methods share: a function of each leaf's Nesterov momentum."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from optlab._arithmetic import wide_dtype
from optlab._checks import check_range

__all__ = ["ScaleByMomentumState", "scale_by_momentum"]


class ScaleByMomentumState(NamedTuple):
    """State of the family's methods: one moment, 4 bytes per float32 parameter."""

    mu: optax.Updates  # like params, dtype=mu_dtype or the leaf's


def scale_by_momentum(
    direction: Callable[[jax.Array], jax.Array], *, b1: Any, nesterov: bool, mu_dtype: Any | None
) -> optax.GradientTransformation:
    """Replaces each gradient by ``direction`` of its moving average, in float32 or more."""
    check_range("b1", b1, 0.0, 1.0)

    def init(params):
        return ScaleByMomentumState(mu=optax.tree.zeros_like(params, dtype=mu_dtype))

    def average(m, g):
        dtype = wide_dtype(g)
        return b1 * m.astype(dtype) + (1.0 - b1) * g.astype(dtype)

    def update(updates, state, params=None):
        del params
        mu = jax.tree.map(average, state.mu, updates)
        ahead = jax.tree.map(average, mu, updates) if nesterov else mu
        new_updates = jax.tree.map(lambda g, u: direction(u).astype(g.dtype), updates, ahead)
        mu = jax.tree.map(lambda old, new: new.astype(old.dtype), state.mu, mu)
        return new_updates, ScaleByMomentumState(mu=mu)

    return optax.GradientTransformation(init, update)
