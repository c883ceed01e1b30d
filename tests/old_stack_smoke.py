"""Runs each transform of the catalog for a few steps: on an old jax, without flax, orbax or lineax.

Called by ``tests/matrix.sh`` as ``python -W error tests/old_stack_smoke.py``.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optlab import catalog

STEPS = 3


def check(label: str, tx: optax.GradientTransformation) -> None:
    """Fails unless jitted steps move every leaf, stay finite and keep the state's types."""
    rng = np.random.default_rng(0)
    shapes = {"matrix": (6, 4), "vector": (5,), "scalar": ()}
    start = {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()
    }

    @jax.jit
    def step(params, state):
        grads = jax.tree.map(lambda p: p + 0.5, params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = start, tx.init(start)
    before = jax.tree.map(jax.typeof, state)
    for _ in range(STEPS):
        params, state = step(params, state)
    assert jax.tree.map(jax.typeof, state) == before, f"{label}: the state's types drift"
    for name, leaf in params.items():
        assert bool(jnp.isfinite(leaf).all()), f"{label}: {name} is not finite"
        assert bool((leaf != start[name]).any()), f"{label}: {name} did not move"


def main() -> None:
    rows = catalog.OPTIMIZERS
    for row in rows:
        check(row.name, row.make())
        for variant, arguments in row.variants.items():
            check(f"{row.name}, {variant}", row.make(**arguments))
    heavy = {"flax", "orbax", "lineax", "ml_collections", "sklearn"} & sys.modules.keys()
    assert rows, "the catalog has no transforms"
    assert not heavy, f"imported beside jax and optax: {sorted(heavy)}"
    print(f"{len(rows)} transforms took {STEPS} steps")


if __name__ == "__main__":
    main()
