"""GaLore against the authors' trajectories."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optlab
from optlab.transforms.low_rank import svd
from tests import golden
from tests.transforms.low_rank.replay import expect_replayed, per_step


def recorded_bases(file, leaf, side):
    """The recorded factors of every step, by the length of their axis."""
    right, steps = file[f"proj_{leaf}"], len(file[f"grad_{leaf}"])
    left = [file[f"projL_{leaf}"]] if side == "both" else []
    wide = file[f"init_{leaf}"].shape[0] < file[f"init_{leaf}"].shape[1]
    if side == "both" or not wide:
        right = np.swapaxes(right, 1, 2)
    return {f.shape[1]: per_step(f, steps) for f in (*left, right)}


# Two-sided, both recorded bases are rounded to float32, in which they are not quite orthonormal.
@pytest.mark.parametrize("leaf", ["W", "Wt"])
@pytest.mark.parametrize(
    ("name", "side", "atol"), [("opt_galore", "short", 2e-6), ("opt_galore_full", "both", 1.2e-5)]
)
def test_replays_the_released_code(name, side, leaf, atol):
    file = golden.load(name)
    hyper = file["hyper"]

    def make(projector):
        return optlab.galore(
            hyper["lr"],
            hyper["rank"],
            update_interval=hyper["update_proj_gap"],
            scale=hyper["scale"],
            weight_decay=hyper["weight_decay"],
            projector=projector,
            side=side,
            as_released=True,
        )

    state = expect_replayed(
        make, file, leaf, atol=atol, projector=svd(), bases=recorded_bases(file, leaf, side)
    )
    np.testing.assert_allclose(state[0].inner.mu, file[f"final_exp_avg_{leaf}"], atol=1e-5)


def test_other_leaves_get_the_released_adamw():
    file = golden.load("opt_galore")
    make = lambda _: optlab.galore(0.01, 4, weight_decay=0.01, as_released=True)  # noqa: E731
    expect_replayed(make, file, "b", atol=2e-6)


def test_a_schedule_decays_after_the_step_as_a_constant_rate_does():
    grads, params = jax.random.normal(jax.random.key(0), (4, 5, 6)), jnp.ones((5, 6))
    paths = [
        golden.replay(
            optlab.galore(rate, 2, weight_decay=0.5, mask=mask, as_released=True), params, grads
        )
        for rate in (0.1, optax.constant_schedule(0.1))
        for mask in (None, True)
    ]
    for path in paths[1:]:
        np.testing.assert_allclose(path, paths[0], rtol=1e-5)


def test_a_full_rank_is_adam():
    grads, params = jax.random.normal(jax.random.key(0), (4, 5, 6)), jnp.ones((5, 6))
    ours = golden.replay(optlab.galore(0.1, 5, weight_decay=0.1), params, grads)
    adamw = golden.replay(optax.adamw(0.1, eps=1e-6, weight_decay=0.1), params, grads)
    np.testing.assert_allclose(ours, adamw, rtol=1e-6)


def test_a_convolution_is_projected_along_its_channels():
    state = optlab.galore(0.1, 4).init({"conv": jnp.zeros((3, 3, 8, 16))})
    assert state[0].inner.mu["conv"].shape == (3, 3, 4, 4)
    state = optlab.galore(0.1, 4, projector="svd").init({"conv": jnp.zeros((3, 3, 8, 16))})
    assert state[0].fallback.mu["conv"].shape == (3, 3, 8, 16)


@pytest.mark.parametrize("name", ["b1", "b2"])
def test_errors_name_the_argument(name):
    with pytest.raises(ValueError, match=f"{name} must lie in"):
        optlab.galore(0.1, **{name: 1.0})
