"""The running average that the family's moments are."""

from typing import Any

import jax
import jax.numpy as jnp

from optlab._arithmetic import wide_dtype
from optlab.base import PyTree

__all__ = ["average"]


def average(old: PyTree, new: PyTree, decay: Any, *, power: int = 1) -> PyTree:
    """Gives ``decay * old + (1 - decay) * new**power``, in float32 or more."""

    def leaf(a, x):
        dtype = jnp.promote_types(a.dtype, wide_dtype(x))
        return decay * a.astype(dtype) + (1.0 - decay) * x.astype(dtype) ** power

    return jax.tree.map(leaf, old, new)
