"""A trial that tells whether a transform acts by entry, by leaf or on the whole tree."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

__all__ = ["reach"]

_STEPS = 4  # the coupling of methods that estimate their step size grows slowly


def reach(tx: optax.GradientTransformation) -> Literal["entry", "leaf", "tree"] | None:
    """Tells how far an entry's gradient reaches, by trying; None if the trial fails.

    It fails for a transform with traced hyperparameters, or for trees of a given structure only.
    """
    rng = np.random.default_rng(0)
    grads = [
        {
            "a": rng.normal(size=(3, 2)).astype(np.float32),
            "b": rng.normal(0.0, 3.0, size=(4,)).astype(np.float32),
        }
        for _ in range(_STEPS)
    ]

    @jax.jit
    def run(grads):
        """The updates of the first row of a leaf."""
        params, found = grads[-1], []
        state = tx.init(params)
        for g in grads:
            updates, state = tx.update(g, state, params)
            found.append(updates["a"][:1])
        return jnp.stack(found)

    def part(rows, others):
        """The same with some rows of the leaf and some of the other leaf."""
        return [{"a": g["a"][:rows], "b": g["b"][:others]} for g in grads]

    try:
        with jax.ensure_compile_time_eval():
            whole, alone, row = (np.asarray(run(part(*n))) for n in ((3, 4), (3, 0), (1, 0)))
    except Exception:  # whatever tx may want that a trial does not give
        return None
    bound = 1e-4 * np.abs(whole).max()
    if np.abs(whole - alone).max() > bound:
        return "tree"
    return "leaf" if np.abs(alone - row).max() > bound else "entry"
