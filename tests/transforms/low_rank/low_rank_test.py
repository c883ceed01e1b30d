"""The building block: shapes, refreshes, rotation, feedback, fallback, bytes and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab.transforms.low_rank import Projector, low_rank, svd
from tests import golden


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def project_shape(shape, **options):
    tx = low_rank(optax.trace(0.9), rank=2, fallback=optax.identity(), **options)
    trace = tx.init(jnp.zeros(shape)).inner.trace
    return None if trace is None else trace.shape


@pytest.mark.parametrize(
    ("shape", "options", "projected"),
    [
        ((5, 7), {}, (2, 7)),
        ((7, 5), {}, (7, 2)),
        ((5, 5), {}, (5, 2)),
        ((5, 7), {"side": "long"}, (5, 2)),
        ((5, 7), {"side": "left"}, (2, 7)),
        ((5, 7), {"side": "right"}, (5, 2)),
        ((5, 7), {"side": "both"}, (2, 2)),
        ((2, 7), {"side": "both"}, (2, 2)),
        ((2, 7), {}, None),
        ((1, 7), {"side": "long"}, None),  # there is one direction only, not two
        ((7,), {}, None),
        ((), {}, None),
        ((0, 7), {"side": "long"}, None),
        ((3, 3, 4, 8), {}, None),
        ((3, 3, 4, 8), {"projector": "tucker"}, (2, 2, 2, 2)),
        ((2, 1, 4, 8), {"projector": "tucker"}, (2, 1, 2, 2)),
    ],
)
def test_projects_the_axes_that_become_shorter(shape, options, projected):
    assert project_shape(shape, **options) == projected


@pytest.mark.parametrize("projector", ["svd", "random", "dct-II", "dct-III"])
@pytest.mark.parametrize("side", ["short", "long", "both"])
def test_the_update_is_the_orthogonal_projection(projector, side):
    tx = low_rank(optax.identity(), projector, 3, side=side)
    g = normal(6, 8)
    once, state = tx.update(g, tx.init(g))
    twice, _ = tx.update(once, state)  # the bases stay until the next refresh
    np.testing.assert_allclose(twice, once, atol=1e-5)
    np.testing.assert_allclose(jnp.vdot(g - once, once), 0, atol=1e-4)
    assert np.linalg.matrix_rank(once, rtol=1e-4) == 3


def test_tucker_beats_no_sweep_and_keeps_a_tensor_of_low_rank():
    core, tx = normal(3, 2, 2, 3), low_rank(optax.identity(), "tucker", 3)
    tensor = core
    for axis, length in enumerate((3, 5, 6, 7)):
        tensor = jnp.moveaxis(
            jnp.tensordot(tensor, normal(core.shape[axis], length, seed=axis), (axis, 0)), -1, axis
        )
    updates, _ = tx.update(tensor, tx.init(tensor))
    np.testing.assert_allclose(updates, tensor, atol=1e-4 * float(jnp.abs(tensor).max()))


@pytest.mark.parametrize(("interval", "offset"), [(1, 0), (3, 0), (3, 1)])
def test_refreshes_at_the_first_and_every_interval_th_step(interval, offset):
    grads = normal(8, 4, 5)
    tx = low_rank(optax.identity(), "svd", 2, update_interval=interval, update_offset=offset)
    state, update, changes = tx.init(grads[0]), jax.jit(tx.update), []
    for t, g in enumerate(grads):
        old = np.asarray(state.bases[0][0])
        _, state = update(g, state)
        if (old != np.asarray(state.bases[0][0])).any():
            changes.append(t)
    assert update._cache_size() == 1
    assert changes == [t for t in range(8) if t == 0 or (t + offset) % interval == 0]


def cyclic(size, rank):
    """A basis of unit vectors that moves on by one at each fit, kept as its first index."""

    def fit(x, rank, previous, key):
        return (previous + 1) % size

    def matrix(start, size, dtype):
        return jnp.eye(size, dtype=dtype)[(start[0] + jnp.arange(rank)) % size].T

    return Projector("cyclic", fit, lambda size, rank, dtype: jnp.zeros(rank, jnp.int32), matrix)


def test_rotated_moments_follow_their_directions():
    size, rank, steps = 5, 3, 7
    grads = np.asarray(normal(steps, size, 6))
    inner = optax.scale_by_adam(0.9, 0.99)
    tx = low_rank(inner, cyclic(size, rank), rank, update_interval=1, rotate_moments=True)
    path = golden.replay(tx, np.zeros((size, 6)), grads)
    m, v, x = (np.zeros((size, 6)) for _ in range(3))
    for t in range(steps):
        inside = np.isin(np.arange(size), (t + 1 + np.arange(rank)) % size)[:, None]
        m, v = (0.9 * m + 0.1 * grads[t]) * inside, (0.99 * v + 0.01 * grads[t] ** 2) * inside
        u = (m / (1 - 0.9 ** (t + 1))) / (np.sqrt(v / (1 - 0.99 ** (t + 1))) + 1e-8)
        x = x + u
        np.testing.assert_allclose(path[t], x, atol=2e-5)


def test_error_feedback_loses_nothing():
    grads = normal(6, 5, 7)
    tx = low_rank(optax.identity(), "svd", 2, update_interval=1, error_feedback=True)
    state, applied = tx.init(grads[0]), 0
    for g in grads:
        updates, state = tx.update(g, state)
        applied += updates
    np.testing.assert_allclose(applied + state.error, grads.sum(0), atol=1e-5)


def test_a_share_of_feedback_is_a_momentum():
    # Over the whole space E = (1 - rho) (E + G), and the update is E + G.
    g = normal(3, 4)
    tx = low_rank(optax.identity(), "svd", 2, update_interval=1, side="short", error_feedback=0.25)
    low = normal(3, 2) @ normal(2, 4)
    state = tx.init(g)
    for expected in (1.0, 1.75, 1 + 0.75 * 1.75):
        updates, state = tx.update(low, state)
        np.testing.assert_allclose(updates, expected * low, atol=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_the_residual_is_scaled_as_the_projected_part_was(exact):
    g, alpha = np.asarray(normal(7, 5)), 0.25
    tx = low_rank(
        optax.scale_by_sign(),
        "svd",
        2,
        scale=alpha,
        residual=optax.scale(2.0),
        exact_residual=exact,
    )
    updates, _ = tx.update(jnp.asarray(g), tx.init(jnp.asarray(g)))
    q = np.linalg.svd(g)[2][:2].T
    r = g @ q
    ratio = np.sqrt(2) / np.linalg.norm(r, axis=1, keepdims=True)
    part = r @ q.T * (1 if exact else alpha)
    np.testing.assert_allclose(
        updates, alpha * np.sign(r) @ q.T + 2 * ratio * (g - part), rtol=1e-4, atol=1e-5
    )


def test_the_fallback_gets_the_other_leaves_and_their_params():
    params = {"b": jnp.ones(3), "none": None, "w": jnp.ones((4, 5))}
    tx = low_rank(optax.identity(), rank=1, fallback=optax.add_decayed_weights(0.5))
    updates, state = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["b"], 1.5)
    np.testing.assert_allclose(updates["w"], 1.0, atol=1e-6)
    assert state.bases[0] == ()


def test_the_inner_transformation_hears_of_refreshes_and_extra_arguments():
    heard = []

    def update(updates, state, params=None, *, refreshed, value):
        heard.append((bool(refreshed), value))
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda p: (), update)
    tx, g = low_rank(inner, rank=1, update_interval=2), normal(3, 4)
    state = tx.init(g)
    for value in range(3):
        _, state = tx.update(g, state, value=value)
    assert heard == [(True, 0), (False, 1), (True, 2)]


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({}, lambda m, n, r: (m + 2 * n) * r),
        ({"side": "long"}, lambda m, n, r: (2 * m + n) * r),
        ({"side": "both"}, lambda m, n, r: (m + n) * r + 2 * r * r),
        ({"projector": "dct-III"}, lambda m, n, r: 2 * n * r + r),
        ({"error_feedback": True}, lambda m, n, r: (m + 2 * n) * r + m * n),
    ],
)
def test_state_has_the_promised_size(options, numbers):
    m, n, r = 48, 80, 5
    tx = low_rank(optax.scale_by_adam(), rank=r, **options)
    sizes = [x.size for x in jax.tree.leaves(jax.eval_shape(tx.init, jnp.zeros((m, n))))]
    assert sum(sizes) == numbers(m, n, r) + 2  # and two step counters


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 0}, "rank must be an integer of at least 1"),
        ({"rank": 1.5}, "rank must be an integer of at least 1"),
        ({"update_interval": 0}, "update_interval must be an integer of at least 1"),
        ({"side": "top"}, "side must be one of"),
        ({"projector": "pca"}, "projector must be"),
        ({"rank": 4}, "rank 4 leaves nothing to project"),
        ({"rank": 1, "rotate_moments": True}, "rotate_moments needs"),
    ],
)
def test_errors_name_the_argument(options, words):
    with pytest.raises(ValueError, match=words):
        low_rank(optax.identity(), **options).init({"w": jnp.zeros((4, 6))})


def test_errors_at_leaves_and_at_a_traced_rank():
    with pytest.raises(ValueError, match=r"rank 1 leaves nothing .*\['b'\] of shape \(3,\)"):
        low_rank(optax.identity(), rank=1).init({"b": jnp.zeros(3), "w": jnp.zeros((4, 6))})
    with pytest.raises(ValueError, match="rank must be a Python integer"):
        jax.jit(lambda r: low_rank(optax.identity(), rank=r).init(jnp.zeros((4, 6))))(2)


def test_numpy_gradients_and_a_users_own_projector():
    g = np.asarray(normal(4, 6))
    own = Projector("first", lambda x, r, b, k: jnp.eye(x.shape[0], r), svd().init, svd().matrix)
    tx = low_rank(optax.identity(), own, 2)
    updates, _ = tx.update(g, tx.init(g))
    np.testing.assert_array_equal(updates, g * (np.arange(4) < 2)[:, None])
