"""Every optimizer takes the hidden matrices, AdamW the rest, and both keep their moments coded."""

import jax
import jax.numpy as jnp
import optax
import pytest

from optlab import catalog
from optlab.base import Encoded
from optlab.transforms.matrix import hidden_matrix_labels
from optlab.transforms.quantized import quantize_states

PARAMS = {
    "bias": jax.ShapeDtypeStruct((8,), jnp.float32),
    "embedding": jax.ShapeDtypeStruct((16, 512), jnp.float32),
    "kernel": jax.ShapeDtypeStruct((16, 512), jnp.float32),
}
ROWS = {
    row.name: row
    for row in catalog.OPTIMIZERS
    if row.family not in ("transforms.quantized", "transforms.sign")
}
# How many moments of a matrix each has under a moment's name. What the others sum up is none: their
# distances, and Trion's momentum, which also holds what was left out of earlier steps.
MOMENTS = {
    **dict.fromkeys(("exadam", "lamb", "spam", "stable_spam"), 2),
    **dict.fromkeys(("lars", "n_pg_igt", "m_fac", "auon", "hybrid_auon", "muon"), 1),
    **dict.fromkeys(("dct_adamw", "fira", "galore", "natural_galore"), 2),
    **dict.fromkeys(("dadapt_adam", "mechanic", "prodigy"), 2),
    **dict.fromkeys(("dadapt_adagrad", "dadapt_lion"), 1),
    **dict.fromkeys(("dadapt_sgd", "dog", "ldog", "trion"), 0),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_partition_with_coded_moments_keeps_its_types(name):
    row = ROWS[name]
    rank = {"rank": 8} if "rank" in row.arguments else {}
    tx = quantize_states(
        optax.partition(
            {"matrix": row.make(**rank), "other": optax.adamw(1e-3)}, hidden_matrix_labels
        ),
        min_size=64,
    )

    def two_steps(params):
        first = state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(params, state, params)
            params = optax.apply_updates(params, updates)
        return first, state

    first, last = jax.eval_shape(two_steps, PARAMS)
    leaves = jax.tree.leaves(first, is_leaf=lambda node: isinstance(node, Encoded))
    coded = sum(isinstance(leaf, Encoded) for leaf in leaves)
    assert coded == MOMENTS[name] + 2  # and AdamW's of the embedding
    assert jax.tree.map(lambda x: (x.shape, x.dtype), first) == jax.tree.map(
        lambda x: (x.shape, x.dtype), last
    )
