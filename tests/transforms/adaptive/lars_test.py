"""LARS against the SimCLR code in its forms, optax's, and what the ratio promises."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optlab
from tests import golden

FORMS = {
    "": {},
    "_classic_nesterov": {"nesterov": True},
    "_popular": {"popular": True},
    "_excl": {"mask": {"W": True, "b": False}},
}


def recorded(file, names=("W", "b")):
    return ({n: file[f"{kind}_{n}"] for n in names} for kind in ("init", "grad"))


@pytest.mark.parametrize(("suffix", "options"), FORMS.items(), ids=lambda v: str(v) or "classic")
def test_replays_simclr(suffix, options):
    file = golden.load("opt_lars")
    hyper = file["hyper"]
    tx = optlab.lars(
        hyper["lr"],
        momentum=hyper["momentum"],
        trust_coefficient=hyper["eeta"],
        weight_decay=hyper["weight_decay"],
        **options,
    )
    names = [n for n in ("W", "b", "conv") if f"params{suffix}_{n}" in file]
    for leaf, path in golden.replay(tx, *recorded(file, names)).items():
        np.testing.assert_allclose(path, file[f"params{suffix}_{leaf}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_classic_form_is_optax_lars(nesterov):
    start, grads = recorded(golden.load("opt_lars"))
    options = {"weight_decay": 1e-3, "trust_coefficient": 0.02, "nesterov": nesterov}
    ours = golden.replay(optlab.lars(0.5, **options), start, grads)
    theirs = golden.replay(optax.lars(0.5, **options), start, grads)
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_a_popular_step_has_a_fixed_length(scale):
    # Where the square of the norm under- or overflows, too.
    params = jnp.array([3.0, 4.0])
    tx = optlab.lars(0.5, popular=True, trust_coefficient=0.1)
    state = tx.init(params)
    for direction in ([1.0, 2.0], [-3.0, 1.0]):
        updates, state = tx.update(scale * jnp.array(direction), state, params)
        np.testing.assert_allclose(jnp.linalg.norm(updates), 0.5 * 0.1 * 5, rtol=1e-5)


def test_state_keeps_its_dtype_and_updates_the_gradients():
    params = jnp.ones((3, 2), jnp.bfloat16)
    tx = optlab.lars(0.1)
    state = tx.init(params)
    updates, state = tx.update(jnp.ones((3, 2), jnp.float32), state, params)
    assert updates.dtype == jnp.float32
    assert optax.tree.get(state, "trace").dtype == jnp.bfloat16
    wide = optlab.lars(0.1, mu_dtype=jnp.float32).init(params)
    assert optax.tree.get(wide, "trace").dtype == jnp.float32


@pytest.mark.parametrize(("name", "value"), [("momentum", 1.0), ("trust_coefficient", 0.0)])
def test_errors_name_the_argument(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must lie in"):
        optlab.lars(1e-3, **{name: value})
