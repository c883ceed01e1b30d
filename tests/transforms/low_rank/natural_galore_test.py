"""Natural GaLore against the authors' trajectories and the dense Fisher matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optlab
from optlab.transforms.low_rank import scale_by_inverse_fisher, svd
from tests import golden
from tests.transforms.low_rank.replay import expect_replayed, per_step


@pytest.mark.parametrize(
    ("name", "atol"), [("opt_natural_galore", 3e-5), ("opt_natural_galore_plain", 1e-5)]
)
def test_replays_the_released_code(name, atol):
    file = golden.load(name)
    hyper = file["hyper"]

    def make(projector):
        options = {
            "update_interval": hyper["update_proj_gap"],
            "scale": hyper["scale"],
            "weight_decay": hyper["weight_decay"],
            "projector": projector,
            "side": "both",
            "as_released": True,
        }
        if name.endswith("plain"):
            return optlab.galore(hyper["lr"], hyper["rank"], **options)
        return optlab.natural_galore(
            hyper["lr"],
            hyper["rank"],
            history=hyper["natural_history"],
            damping=hyper["damping"],
            **options,
        )

    bases = {24: per_step(file["factor_U"], 30), 16: per_step(file["factor_V"], 30)}
    expect_replayed(make, file, "W", atol=atol, projector=svd(), bases=bases)
    expect_replayed(make, file, "b", atol=2e-6, projector=svd())  # plain AdamW


def dense_solutions(grads, history, damping, fisher, include_current):
    """The same by numpy's dense solve in float64."""
    for t, g in enumerate(grads):
        first = t + include_current - history
        past = grads[max(first, 0) : t + include_current]
        weight = 1 / len(past) if fisher == "mean" and len(past) else 1
        matrix = damping * np.eye(g.size) + weight * sum(np.outer(h, h) for h in past)
        yield np.linalg.solve(matrix, g.ravel()).reshape(g.shape)


@pytest.mark.parametrize("fisher", ["sum", "mean"])
@pytest.mark.parametrize("include_current", [True, False])
@pytest.mark.parametrize(("history", "damping", "scale"), [(4, 0.1, 1.0), (1, 1e-3, 100.0)])
def test_equals_the_dense_solve(fisher, include_current, history, damping, scale):
    grads = scale * np.random.default_rng(0).normal(size=(7, 3, 4))
    tx = scale_by_inverse_fisher(history, damping, fisher=fisher, include_current=include_current)
    with jax.enable_x64(True):
        state, update = tx.init(jnp.asarray(grads[0])), jax.jit(tx.update)
        wants = dense_solutions(grads, history, damping, fisher, include_current)
        for g, want in zip(grads, wants, strict=True):
            found, state = update(jnp.asarray(g), state)
            np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-9 * np.abs(want).max())


def test_float32_keeps_its_figures_where_woodburys_form_loses_them():
    grads = 300 * np.random.default_rng(1).normal(size=(5, 4, 4)).astype(np.float32)
    tx = scale_by_inverse_fisher(5, 1e-3)
    state = tx.init(jnp.asarray(grads[0]))
    for g, want in zip(
        grads, dense_solutions(np.float64(grads), 5, 1e-3, "sum", True), strict=True
    ):
        found, state = tx.update(jnp.asarray(g), state)
        np.testing.assert_allclose(found, want, rtol=0, atol=2e-4 * np.abs(want).max())


def test_a_refresh_can_clear_the_history():
    grads = jax.random.normal(jax.random.key(2), (3, 2, 3))
    for clear in (True, False):
        tx = scale_by_inverse_fisher(4, 0.1, clear_on_refresh=clear)
        state = tx.init(grads[0])
        for g in grads[:2]:
            _, state = tx.update(g, state)
        found, state = tx.update(grads[2], state, refreshed=jnp.asarray(True))
        fresh, _ = tx.update(grads[2], tx.init(grads[0]))
        assert bool(jnp.allclose(found, fresh)) is clear
        assert int(state.count) == (1 if clear else 3)


@pytest.mark.parametrize("side", ["short", "both"])
def test_state_has_the_promised_size(side):
    m, n, r, s = 48, 80, 5, 7
    tx = optlab.natural_galore(0.1, r, history=s, side=side)
    sizes = [x.size for x in jax.tree.leaves(jax.eval_shape(tx.init, jnp.zeros((m, n))))]
    want = (m + n) * r + (2 + s) * r * r if side == "both" else (m + (2 + s) * n) * r
    assert sum(sizes) == want + 4  # and four step counters


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"history": 0}, "history must be an integer of at least 1"),
        ({"damping": 0.0}, "damping must lie in"),
        ({"fisher": "median"}, "fisher must be"),
    ],
)
def test_errors_name_the_argument(arguments, words):
    with pytest.raises(ValueError, match=words):
        optlab.natural_galore(0.1, **arguments)
