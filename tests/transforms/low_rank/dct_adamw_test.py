"""DCT-AdamW against the authors' trajectories."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optlab
from optlab.transforms.low_rank import dct
from tests import golden
from tests.transforms.low_rank.replay import expect_replayed

# The released float32 basis is not quite orthonormal, and rotation takes the root of what it leaks;
# error feedback adds up.
RECORDED = {"": 2e-6, "_makhoul": 2e-6, "_gap5_rot": 1.5e-5, "_ef_rot": 3e-4, "_l2norm": 3e-4}


@pytest.mark.parametrize("leaf", ["W", "Wt"])
@pytest.mark.parametrize("name", RECORDED)
def test_replays_the_released_code(name, leaf):
    file = golden.load(f"opt_dct_adamw{name}")
    hyper = file["hyper"]
    projector = dataclasses.replace(
        dct("II" if name == "_makhoul" else "III", ord=hyper.get("ell_norm", 1)),
        matrix=lambda i, size, dtype: jnp.asarray(file["Q_dct3_16"], dtype)[:, i],
    )

    def make(projector):
        return optlab.dct_adamw(
            hyper["lr"],
            hyper["rank"],
            update_interval=hyper["update_proj_gap"],
            weight_decay=hyper["weight_decay"],
            projector=projector,
            error_feedback=hyper["use_ef"],
            rotate_moments=hyper["rotate_subspace"],
        )

    # Without rotation the order of the indices counts, and that of the released code is arbitrary.
    bases = {} if hyper["rotate_subspace"] else {16: file[f"indices_{leaf}"]}
    state = expect_replayed(make, file, leaf, atol=RECORDED[name], projector=projector, bases=bases)
    np.testing.assert_array_equal(
        np.sort(state[0].bases[0][0]), np.sort(file[f"indices_{leaf}"][-1])
    )


def test_vectors_get_adamw():
    make = lambda _: optlab.dct_adamw(0.01, 4, weight_decay=0.01)  # noqa: E731
    expect_replayed(make, golden.load("opt_dct_adamw"), "b", atol=2e-6)


def test_both_bases_and_a_convolution_train():
    params = {"conv": jnp.ones((3, 3, 4, 8)), "w": jnp.ones((6, 5))}
    for projector in ("dct-II", "dct-III"):
        tx = optlab.dct_adamw(0.1, 2, projector=projector)
        updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
        assert all(float(jnp.abs(u).max()) > 0.01 for u in jax.tree.leaves(updates))
