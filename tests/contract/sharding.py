"""On four devices: the result is that of one, and the state is sharded like its params."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.contract.case import Case, expect, expect_close, like
from tests.multi_device import blocking, mesh

__all__ = ["check_sharding_auto", "check_sharding_explicit"]

# Matrices sharded over either axis: a Gram matrix of one of them contracts a sharded axis.
SHAPES = {"columns": (4, 8), "rows": (8, 4), "scale": (), "vector": (8,)}
SPECS = {
    "columns": PartitionSpec(None, "x"),
    "rows": PartitionSpec("x", None),
    "scale": PartitionSpec(),
    "vector": PartitionSpec("x"),
}


def _check(case: Case, axis_type: AxisType) -> None:
    zeros = {name: jnp.zeros(shape) for name, shape in SHAPES.items()}
    params = like(zeros, seed=0)
    gradients = like(zeros, seed=1)
    _, state = case.run(params, [gradients])
    want, _ = case.update(gradients, state, params)

    devices = mesh(axis_type)
    layout = {name: NamedSharding(devices, spec) for name, spec in SPECS.items()}
    with jax.set_mesh(devices):
        placed = jax.device_put(params, layout)
        fresh = case.tx.init(placed)
        # The second step, as the first is from zeros; of a program for where init puts them.
        state = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), state, fresh)
        update = blocking(jax.jit(case.tx.update))
        updates, state = update(jax.device_put(gradients, layout), state, placed)
    expect_close(jax.device_get(updates), want, "On four devices")
    for what, values in {"updates": updates, "state": state, "state of init": fresh}.items():
        _expect_sharded_like(values, layout, f"The {what}")


def _expect_sharded_like(values, layout: dict, what: str) -> None:
    """Expects the leaves under a parameter's name, of its shape, to be placed as it is."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(values):
        name = getattr(path[-1], "key", None) if path else None
        if name in layout and leaf.shape == SHAPES[name]:
            kept = leaf.sharding.is_equivalent_to(layout[name], leaf.ndim)
            where = f"{what} at {jax.tree_util.keystr(path)}"
            expect(kept, f"{where} is placed by {leaf.sharding}, its param by {layout[name]}.")


def check_sharding_auto(case: Case) -> None:
    """On a mesh of auto axes, where the compiler places intermediate results."""
    _check(case, AxisType.Auto)


def check_sharding_explicit(case: Case) -> None:
    """On a mesh of explicit axes, where shardings are part of the types."""
    _check(case, AxisType.Explicit)
