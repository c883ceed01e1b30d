"""The layer-wise trust ratio of LAMB and LARS."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import wide_dtype
from optlab.base import PyTree
from optlab.linalg import safe_norm

__all__ = ["scale_by_trust_ratio"]


def scale_by_trust_ratio(
    *,
    coefficient: Any = 1.0,
    phi: tuple[float, float] | None = None,
    mask: PyTree | None = None,
) -> optax.GradientTransformation:
    """Multiplies each leaf by ``coefficient * phi(|param|) / |update|``, or by 1 where that is 0.

    Beyond optax's: phi clips the norm of the param, and norms neither over- nor underflow.
    """
    if phi is not None and not 0.0 <= phi[0] <= phi[1]:
        raise ValueError(f"phi must be two ascending bounds of 0 or more, got {phi}.")

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("params must be given to the update of a layer-wise method.")

        def leaf(u, p):
            dtype = wide_dtype(u)
            size, length = safe_norm(p.astype(dtype)), safe_norm(u.astype(dtype))
            if phi is not None:
                size = jnp.clip(size, *phi)
            nothing = (size == 0) | (length == 0)
            ratio = jnp.where(nothing, 1.0, coefficient * size / jnp.where(nothing, 1.0, length))
            return (ratio * u.astype(dtype)).astype(u.dtype)

        return jax.tree.map(leaf, updates, params), state

    tx = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    return tx if mask is None else optax.masked(tx, mask)
