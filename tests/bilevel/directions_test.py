"""Directions: their formulas, written out anew, and what each keeps or reduces."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab.bilevel import msvr, plain, saga, spider, storm
from optlab.bilevel._directions import Gradient

DATA = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)
POINTS = jnp.asarray(np.random.default_rng(1).standard_normal((6, 3)), jnp.float32)
ORDER = (2, 0, 3, 2, 1, 0)


def oracle(point, batch):
    """A gradient that is not linear in the point, in a tree."""
    return {"g": batch * point + point**3, "sum": jnp.sum(point * batch)}


def _follow(direction, **options):
    state = direction.init(oracle(POINTS[0], DATA[0]), POINTS[0])
    found = []
    for point, i in zip(POINTS, ORDER, strict=True):
        value, state = direction.estimate(oracle, point, DATA[i], state, index=i, **options)
        found.append(value)
    return found, state


def _assert_same(actual, desired):
    jax.tree.map(
        lambda a, d: np.testing.assert_allclose(a, d, rtol=1e-5, atol=1e-6), actual, desired
    )


def test_plain_is_the_oracle():
    found, _ = _follow(plain())
    _assert_same(found, [oracle(p, DATA[i]) for p, i in zip(POINTS, ORDER, strict=True)])


@pytest.mark.parametrize("weight", [0.3, lambda t: 1.0 / (t + 1.0)])
def test_storm_is_its_recursion(weight):
    found, _ = _follow(storm(weight))
    last = oracle(POINTS[0], DATA[ORDER[0]])
    _assert_same(found[0], last)
    for t in range(1, len(ORDER)):
        a = weight if isinstance(weight, float) else weight(t)
        new, old = (oracle(p, DATA[ORDER[t]]) for p in (POINTS[t], POINTS[t - 1]))
        last = jax.tree.map(lambda n, d, o, a=a: n + (1 - a) * (d - o), new, last, old)
        _assert_same(found[t], last)


def test_storm_of_weight_one_is_plain():
    _assert_same(_follow(storm(1.0))[0], _follow(plain())[0])


def test_spider_with_all_data_is_exact_and_then_telescopes():
    direction = spider()
    state = direction.init(oracle(POINTS[0], DATA[0]), POINTS[0])

    def whole(point, rows):
        return jax.tree.map(lambda v: v.mean(0), jax.vmap(oracle, (None, 0))(point, rows))

    value, state = direction.estimate(whole, POINTS[0], None, state, full=DATA)
    _assert_same(value, whole(POINTS[0], DATA))
    for point in POINTS[1:]:  # every batch is all data: the differences add up to the value
        value, state = direction.estimate(whole, point, DATA, state)
        _assert_same(value, whole(point, DATA))


@pytest.mark.parametrize("make", [spider, lambda **o: storm(0.3, **o)], ids=["spider", "storm"])
def test_values_taken_at_once_are_the_same(make):
    calls = []

    def counted(point, batch):
        calls.append(point["z"].shape)
        return oracle(point["z"], batch)

    def follow(direction):
        state = direction.init(oracle(POINTS[0], DATA[0]), {"z": POINTS[0]})
        found = []
        for point, i in zip(POINTS, ORDER, strict=True):
            value, state = direction.estimate(counted, {"z": point}, DATA[i], state)
            found.append(value)
        return found

    _assert_same(follow(make(paired=True)), follow(make()))
    assert len(calls) == 3 * len(ORDER)  # one mapped call a step, and two of the other
    assert set(calls) == {(3,)}


def test_a_gradient_at_two_points_turns_no_matrix_around():
    """With ``vmap`` of the gradient XLA:CPU transposes the batch in one of its products."""

    def slope(point, batch):
        y, v = point

        def loss(y):
            return jnp.mean(jax.vmap(lambda h: 0.5 * y @ (h @ y))(batch))

        return jax.jvp(loss, (y,), (v,))[1]

    rng = np.random.default_rng(2)
    y, v, batch = (
        rng.standard_normal(s).astype(np.float32) for s in ((2, 12), (2, 12), (16, 12, 12))
    )
    compiled = jax.jit(Gradient(slope).at_all).lower((y, v), batch).compile()
    assert "lhs_contracting_dims={0}, rhs_contracting_dims={1}" not in compiled.as_text()
    symmetric = (batch + batch.transpose(0, 2, 1)).mean(0) / 2
    _assert_same(compiled((y, v), batch), (v @ symmetric, y @ symmetric))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_full_pass_in_batches_is_their_mean(dtype):
    direction, batches = spider(full_in_batches=True), jnp.ones((600, 1), dtype) * DATA[0, 0]
    point = POINTS[0].astype(dtype)
    state = direction.init(oracle(point, batches[0]), point)
    value, state = direction.estimate(oracle, point, None, state, full=batches)
    expected = oracle(point, batches[0])
    tolerance = {jnp.float32: 1e-5, jnp.bfloat16: 2**-8}[dtype]  # a sum of 600 in bfloat16 stalls
    for name, found in value.items():
        assert found.dtype == expected[name].dtype
        np.testing.assert_allclose(
            found.astype(float), expected[name].astype(float), rtol=tolerance
        )
    with pytest.raises(ValueError, match="full must hold as many batches in each leaf"):
        direction.estimate(oracle, point, None, state, full=(batches, batches[:2]))


def test_saga_keeps_the_last_value_on_every_batch():
    found, state = _follow(saga(4))
    memory = [jax.tree.map(jnp.zeros_like, found[0]) for _ in range(4)]
    for t, i in enumerate(ORDER):
        new = oracle(POINTS[t], DATA[i])
        mean = jax.tree.map(lambda *rows: sum(rows) / 4, *memory)
        _assert_same(found[t], jax.tree.map(lambda n, m, a: n - m + a, new, memory[i], mean))
        memory[i] = new
    for i in range(4):
        _assert_same(jax.tree.map(lambda m, i=i: m[i], state.memory), memory[i])
    _assert_same(state.mean, jax.tree.map(lambda m: m.mean(0), state.memory))


def test_saga_is_unbiased_and_exact_at_a_fixed_point():
    _, state = _follow(saga(4))
    values = [saga(4).estimate(oracle, POINTS[0], DATA[i], state, index=i)[0] for i in range(4)]
    full = [oracle(POINTS[0], DATA[i]) for i in range(4)]

    def mean(trees):
        return jax.tree.map(lambda *rows: sum(rows) / 4, *trees)

    _assert_same(mean(values), mean(full))
    for i in range(4):  # with the memory of this point there is no variance left
        _, state = saga(4).estimate(oracle, POINTS[0], DATA[i], state, index=i)
    _assert_same(saga(4).estimate(oracle, POINTS[0], DATA[2], state, index=2)[0], mean(full))


BLOCKS = ((0, 2), (3, 1), (2, 3), (0, 1), (2, 1), (3, 2))  # of four, two a step


def _block_oracle(point, ids):
    return jax.vmap(oracle, (None, 0))(point, DATA[ids])


def test_msvr_is_its_recursion_and_leaves_other_blocks():
    direction = msvr(4, 0.3)
    state = direction.init(oracle(POINTS[0], DATA[0]), POINTS[0])
    memory, gain = {}, (4 - 2) / (2 * 0.7) + 0.7
    for t, ids in enumerate(map(jnp.array, BLOCKS)):
        found, state = direction.estimate(_block_oracle, POINTS[t], ids, state, index=ids)
        for i in ids.tolist():
            new, old = oracle(POINTS[t], DATA[i]), oracle(POINTS[max(t - 1, 0)], DATA[i])
            memory[i] = jax.tree.map(
                lambda n, o, s: 0.7 * s + 0.3 * n + gain * (n - o), new, old, memory.get(i, new)
            )
            if int(state.counts[i]) == 1:  # a block's first estimate is its value
                memory[i] = new
        _assert_same(found, jax.tree.map(lambda *r: jnp.stack(r), *(memory[int(i)] for i in ids)))
    assert state.counts.tolist() == [2, 3, 4, 3]
    _assert_same(
        state.memory, jax.tree.map(lambda *r: jnp.stack(r), *(memory[i] for i in range(4)))
    )


def test_msvr_of_one_block_is_storm():
    ids, one, momentum = jnp.array([0]), msvr(1, 0.3), storm(0.3)
    values = oracle(POINTS[0], DATA[0])
    states = one.init(values, POINTS[0]), momentum.init(values, POINTS[0])
    for point, i in zip(POINTS, ORDER, strict=True):

        def block_oracle(point, batch):
            return jax.tree.map(lambda v: v[None], oracle(point, batch))

        found, first = one.estimate(block_oracle, point, DATA[i], states[0], index=ids)
        expected, second = momentum.estimate(oracle, point, DATA[i], states[1])
        states = first, second
        _assert_same(jax.tree.map(lambda v: v[0], found), expected)


def test_msvr_shows_numbers_that_are_out_of_range():
    direction = msvr(4, 0.3)
    state = direction.init(oracle(POINTS[0], DATA[0]), POINTS[0])
    for _ in range(2):
        ids = jnp.array([1, 3])
        _, state = direction.estimate(_block_oracle, POINTS[0], ids, state, index=ids)

    @jax.jit
    def step(ids):
        return direction.estimate(_block_oracle, POINTS[0], ids % 4, state, index=ids)[0]

    found = step(jnp.array([1, 4]))["g"]
    assert bool(jnp.isfinite(found[0]).all())
    assert bool(jnp.isnan(found[1]).all())
    with pytest.raises(ValueError, match=r"index must lie in \[0, 4\), got \[1, 4\]"):
        direction.estimate(_block_oracle, POINTS[0], None, state, index=jnp.array([1, 4]))


@pytest.mark.parametrize(
    ("direction", "least", "most"),
    [(plain(), 1e-2, 1.0), (saga(4), 0.0, 1e-4), (spider(), 0.0, 1e-4)],
    ids=["plain", "saga", "spider"],
)
def test_directions_serve_single_level_problems(direction, least, most):
    """Least squares in four batches, with an optax optimizer and no bilevel problem."""
    rng = np.random.default_rng(2)
    features = jnp.asarray(rng.standard_normal((4, 5, 3)), jnp.float32)
    targets = jnp.asarray(rng.standard_normal((4, 5)), jnp.float32)
    best = np.linalg.lstsq(features.reshape(20, 3), targets.reshape(20), rcond=None)[0]
    rows = (features.reshape(20, 3), targets.reshape(20))
    gradient, tx = jax.grad(lambda w, b: jnp.mean((b[0] @ w - b[1]) ** 2)), optax.sgd(0.05)

    def step(carry, i, full=None):
        w, optimizer, state = carry
        along, state = direction.estimate(
            gradient, w, (features[i], targets[i]), state, index=i, full=full
        )
        updates, optimizer = tx.update(along, optimizer, w)
        return (optax.apply_updates(w, updates), optimizer, state), None

    def epoch(carry, order):
        return jax.lax.scan(step, step(carry, order[0], full=rows)[0], order[1:])

    start = jnp.zeros(3)
    order = jax.random.randint(jax.random.key(0), (100, 8), 0, 4)
    carry = (start, tx.init(start), direction.init(start, start))
    w = jax.jit(lambda c: jax.lax.scan(epoch, c, order))(carry)[0][0]
    assert least <= float(jnp.linalg.norm(w - best)) < most


@pytest.mark.parametrize("wrong", [3, -1])
def test_msvr_shows_a_traced_number_that_is_out_of_range(wrong):
    """Also at the first draw, where an estimate is the value; no other block is touched."""
    direction, ids = msvr(3, 0.5), jnp.array([wrong, 0])
    state = direction.init(jnp.array(0.0), jnp.array(0.0))
    estimate = jax.jit(
        lambda ids: direction.estimate(lambda x, _: x, ids + 1.0, ids, state, index=ids)
    )
    along, state = estimate(ids)
    np.testing.assert_array_equal(along, [np.nan, 1.0])
    np.testing.assert_array_equal(state.counts, [1, 0, 0])
    np.testing.assert_array_equal(state.memory, [1.0, 0.0, 0.0])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="index must be given"):
        saga(2).estimate(oracle, POINTS[0], DATA[0], saga(2).init(POINTS[0], ()))
    with pytest.raises(ValueError, match=r"index must lie in \[0, 2\), got 2"):
        saga(2).estimate(oracle, POINTS[0], DATA[0], saga(2).init(POINTS[0], ()), index=2)
    with pytest.raises(ValueError, match="batches must be an integer"):
        saga(0)
    with pytest.raises(ValueError, match="weight must lie in"):
        msvr(2, 1.0)
    with pytest.raises(ValueError, match="weight must lie in"):
        storm(1.5)
