"""MKOR and MKOR-H against the authors' run, the dense inverse, and momentum at equal steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from optlab.transforms.curvature import (
    LayerStatistics,
    layer_taps,
    mkor,
    mkor_h,
    scale_by_mkor,
    watch,
    watch_conv,
)
from tests import golden

ATOL = 3e-6


def network(params, taps, x):
    """Dense layers with tanh between them, watched."""
    for name, layer in sorted(params.items()):
        y = watch(x, x @ layer["kernel"] + layer["bias"][None], taps[name])
        x = jnp.tanh(y)
    return y


def mean_square(params, taps, x, y):
    return jnp.mean((network(params, taps, x) - y) ** 2)


def recorded(file, kind):
    """The authors' torch layers (out, in) as kernels (in, out)."""
    return {
        layer: {
            "kernel": np.swapaxes(file[f"{kind}_{layer}.weight"], -1, -2),
            "bias": file[f"{kind}_{layer}.bias"],
        }
        for layer in ("l1", "l2")
    }


@pytest.fixture(scope="module", params=["opt_mkor", "opt_mkor_freq1"])
def run(request):
    """The authors' training, run again from its inputs alone."""
    file = golden.load(request.param)
    hyper = file["hyper"]
    options = {
        "update_interval": hyper["inv_freq"],
        "warmup_steps": hyper["warmup_steps"],
        "clip": hyper["clipping_value"],
        "as_released": True,
    }
    tx = mkor(hyper["lr"], b1=hyper["momentum"], weight_decay=hyper["weight_decay"], **options)

    def step(carry, batch):
        params, state = carry
        value, (gradients, statistics) = jax.value_and_grad(mean_square, (0, 1))(
            params, layer_taps(params), *batch
        )
        preconditioned, _ = scale_by_mkor(**options).update(
            gradients, state[0], statistics=statistics
        )
        updates, state = tx.update(gradients, state, params, statistics=statistics)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, value, gradients, preconditioned, statistics, state[0])

    params = jax.tree.map(jnp.asarray, recorded(file, "init"))
    batches = tuple(jnp.asarray(file[name]) for name in "xy")
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, batches)[1])
    return file, run((params, tx.init(params)))


def test_replays_the_authors_training(run):
    file, (params, value, gradients, preconditioned, _, _) = run
    np.testing.assert_allclose(value, file["loss"], rtol=0, atol=ATOL)
    for kind, found in (
        ("params", params),
        ("grad", gradients),
        ("precond_grad", preconditioned),
    ):
        want = recorded(file, kind)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=ATOL), found, want)


def test_replays_the_authors_statistics_and_factors(run):
    file, (*_, statistics, state) = run
    hyper = file["hyper"]
    steps = np.arange(len(file["loss"]))
    due = (steps % hyper["inv_freq"] == 0) | (steps < hyper["warmup_steps"])
    for layer, factors in zip(("l1", "l2"), state.factors, strict=True):
        inputs, outputs = file[f"in_mean_{layer}"][due, 0], file[f"gout_mean_{layer}"][due, 0]
        np.testing.assert_allclose(statistics[layer].inputs[due], inputs[:, :-1], atol=ATOL)
        np.testing.assert_allclose(statistics[layer].outputs[due], outputs, atol=ATOL)
        np.testing.assert_allclose(factors.inputs, file[f"Ainv_{layer}"], rtol=0, atol=ATOL)
        np.testing.assert_allclose(factors.outputs, file[f"Ginv_{layer}"], rtol=0, atol=ATOL)


def random_statistics(rng, n, m, scale=1.0):
    return {
        "": LayerStatistics(*(jnp.asarray(scale * rng.normal(size=k), jnp.float32) for k in (n, m)))
    }


def test_equals_the_dense_inverses():
    rng = np.random.default_rng(0)
    n, m, decay = 5, 4, 0.8
    params = {"kernel": jnp.zeros((n, m)), "bias": jnp.zeros(m)}
    tx = scale_by_mkor(factor_decay=decay, update_interval=1, max_factor=1e6)
    state = tx.init(params)
    right, left = np.eye(n + 1), np.eye(m)
    for _ in range(6):
        statistics = random_statistics(rng, n, m)
        a, g = np.append(statistics[""].inputs, 1), np.asarray(statistics[""].outputs)
        right = decay * right + (1 - decay) * np.outer(a, a)
        left = decay * left + (1 - decay) * np.outer(g, g)
        full = rng.normal(size=(n + 1, m)).astype(np.float32)
        gradients = {"kernel": jnp.asarray(full[:-1]), "bias": jnp.asarray(full[-1])}
        updates, state = tx.update(gradients, state, statistics=statistics)
        want = np.linalg.inv(right) @ full @ np.linalg.inv(left)
        want *= np.linalg.norm(full) / np.linalg.norm(want)
        np.testing.assert_allclose(updates["kernel"], want[:-1], rtol=0, atol=2e-5)
        np.testing.assert_allclose(updates["bias"], want[-1], rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, jnp.float16], ids=str)
@pytest.mark.parametrize("as_released", [False, True])
def test_factors_stay_positive_definite_and_bounded(as_released, dtype):
    # The same few means over and over, so that the inverses vanish along them and grow elsewhere.
    params = {"kernel": jnp.zeros((6, 5))}
    tx = scale_by_mkor(update_interval=1, as_released=as_released, factor_dtype=dtype)
    rng = np.random.default_rng(1)
    means = jax.tree.map(
        lambda *v: jnp.stack(v), *(random_statistics(rng, 6, 5)[""] for _ in range(2))
    )

    def step(state, t, scale):
        statistics = {"": jax.tree.map(lambda v: scale * v[t % 2], means)}
        state = tx.update(params, state, statistics=statistics)[1]
        return state, state.factors[0]

    def run(scale):
        return jax.lax.scan(lambda s, t: step(s, t, scale), tx.init(params), jnp.arange(1000))[1]

    for factors in jax.jit(jax.vmap(run))(jnp.array([1e-6, 1.0, 1e6])):
        factors = np.asarray(factors)
        assert factors.dtype == (dtype or np.float32)
        np.testing.assert_array_equal(factors, np.swapaxes(factors, -1, -2))
        eigenvalues = np.linalg.eigvalsh(factors.astype(np.float64))
        assert (0.5e-4 if dtype is None else 5e-3) < eigenvalues.min()
        assert eigenvalues.max() < 6 * 2.2


def test_half_precision_trains_as_float32_does():
    full, _ = train(mkor(0.1), 100)
    for dtype in (jnp.bfloat16, jnp.float16):
        half, state = train(mkor(0.1, factor_dtype=dtype), 100)
        np.testing.assert_allclose(half[-1], full[-1], rtol=0.05)
        numbers = 13**2 + 24**2 + 25**2 + 3**2
        assert sum(x.nbytes for x in jax.tree.leaves(state[0].factors)) == 2 * numbers


def test_the_stabilizer_leans_towards_the_identity():
    params = {"kernel": jnp.zeros((2, 2))}
    tx = scale_by_mkor(factor_decay=0.5, update_interval=1, stabilizer=0.25, max_factor=1.5)
    zero = {"": LayerStatistics(jnp.zeros(2), jnp.zeros(2))}
    state, found = tx.init(params), []
    for _ in range(3):
        _, state = tx.update(params, state, statistics=zero)
        found.append(float(state.factors[0].inputs[0, 0]))
    # Doubled each time; 2 and 3.5 are above 1.5, and first become 0.75 x + 0.25.
    np.testing.assert_allclose(found, [2.0, 3.5, 5.75])


def test_the_update_of_a_factor_costs_order_d_squared():
    def flops(d):
        params = {"kernel": jnp.zeros((d, d))}
        tx = scale_by_mkor(update_interval=1)
        state = tx.init(params)
        # Only the state is asked for, so the product with the gradient is not compiled.
        step = jax.jit(lambda state, taps: tx.update(params, state, statistics=taps)[1])
        return step.lower(state, layer_taps(params)).compile().cost_analysis()["flops"]

    assert flops(256) < 4.2 * flops(128)
    assert flops(256) < 40 * 256**2


def test_norms_are_kept_and_other_leaves_pass_through():
    rng = np.random.default_rng(2)
    params = {
        "a": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)},
        "b": {"kernel": jnp.ones((3, 2))},
        "conv": {"kernel": jnp.ones((2, 2, 1, 3))},
        "head": {"kernel": jnp.ones((2, 7))},
        "norm": [jnp.ones(3), None],
    }
    gradients = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)
    statistics = layer_taps(params, first_order="conv|head")
    assert list(statistics) == ["a", "b"]
    statistics = jax.tree.map(lambda v: v + 2, statistics)
    tx = scale_by_mkor(first_order="conv|head")
    updates, _ = tx.update(gradients, tx.init(params), params, statistics=statistics)
    for name in ("conv", "head", "norm"):
        jax.tree.map(np.testing.assert_array_equal, updates[name], gradients[name])
    for name in ("a", "b"):
        norms = [optax.tree.norm(tree[name]) for tree in (updates, gradients)]
        np.testing.assert_allclose(*norms, rtol=1e-5)
        assert float(jnp.abs(updates[name]["kernel"] - gradients[name]["kernel"]).max()) > 0.1
    zeros = jax.tree.map(jnp.zeros_like, gradients)
    updates, _ = tx.update(zeros, tx.init(params), params, statistics=statistics)
    assert all(bool((u == 0).all()) for u in jax.tree.leaves(updates))


def test_watching_changes_no_gradient():
    x = jax.random.normal(jax.random.key(0), (2, 5, 3))  # two axes of examples
    kernel = jax.random.normal(jax.random.key(1), (3, 4))
    tap = LayerStatistics(jnp.zeros(3), jnp.zeros(4))

    def loss(x, kernel, tap, on):
        y = x @ kernel
        return jnp.mean(jnp.sum(jnp.sin(watch(x, y, tap) if on else y), axis=-1))

    plain = jax.grad(loss, (0, 1))(x, kernel, tap, False)
    *watched, statistics = jax.grad(loss, (0, 1, 2))(x, kernel, tap, True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), tuple(watched), plain)
    np.testing.assert_allclose(statistics.inputs, x.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(statistics.outputs, jnp.cos(x @ kernel).mean((0, 1)), rtol=1e-5)


def unfolded(x, window, strides, padding, dilation):
    """The patches of images, [images, positions, height * width * channels], cut out one by one."""
    x = np.pad(x, ((0, 0), *padding, (0, 0)))
    reach = [d * (w - 1) for w, d in zip(window, dilation, strict=True)]
    places = [range(0, n - r, s) for n, r, s in zip(x.shape[1:3], reach, strides, strict=True)]
    rows, columns = (np.arange(0, r + 1, d) for r, d in zip(reach, dilation, strict=True))
    patches = [x[:, i + rows][:, :, j + columns] for i in places[0] for j in places[1]]
    return np.stack([p.reshape(len(x), -1) for p in patches], axis=1)


CONVOLUTIONS = {
    "one_by_one": ((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "same": ((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "strided": ((3, 2), (2, 1), ((1, 0), (0, 1)), (1, 2)),
}


@pytest.mark.parametrize("placed", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_a_convolution_is_the_dense_layer_of_its_patches(placed):
    window, strides, padding, dilation = placed
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (3, 6, 5, 2)) + 1
    kernel, bias = jax.random.normal(keys[1], (*window, 2, 4)), jax.random.normal(keys[2], (4,))

    def convolved(params, taps):
        y = jax.lax.conv_general_dilated(
            x,
            params["kernel"],
            strides,
            padding,
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        options = {"strides": strides, "padding": padding, "dilation": dilation}
        y = watch_conv(x, y + params["bias"][None, None, None], taps[""], window=window, **options)
        return jnp.mean(jnp.sin(y))

    patches = jnp.asarray(unfolded(np.asarray(x), *placed))

    def dense(params, taps):
        y = watch(patches, patches @ params["kernel"] + params["bias"][None, None], taps[""])
        return jnp.mean(jnp.sin(y))

    found = []
    for loss, w in ((convolved, kernel), (dense, kernel.reshape(-1, 4))):
        params = {"kernel": w, "bias": bias}
        gradients, statistics = jax.jit(jax.grad(loss, (0, 1)))(params, layer_taps(params))
        tx = scale_by_mkor(update_interval=1)
        updates, state = tx.update(gradients, tx.init(params), statistics=statistics)
        updates["kernel"] = updates["kernel"].reshape(-1, 4)
        found.append((statistics, updates, state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-6), *found)


def test_a_flax_convolution_at_one_place_has_the_gradient_of_its_statistics():
    # Of one example at one place, the kernel's gradient is the outer product of the two means.
    model = nnx.Conv(3, 5, (2, 4), padding="VALID", rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 2, 4, 3))
    graph, params = nnx.split(model)

    def loss(params, taps):
        y = nnx.merge(graph, params)(x)
        (tap,) = taps.values()
        y = watch_conv(x, y, tap, window=model.kernel_size, padding="VALID")
        return jnp.sum(jnp.sin(y))

    gradients, taps = jax.grad(loss, (0, 1))(params, layer_taps(params))
    (statistics,) = taps.values()
    outer = statistics.inputs[:, None] * statistics.outputs[None]
    np.testing.assert_allclose(gradients["kernel"][...].reshape(-1, 5), outer, atol=1e-6)
    state = scale_by_mkor().init(params)
    assert [f.shape for f in state.factors[0]] == [(25, 25), (5, 5)]


def train(tx, steps, *, seed=0):
    """Full-batch regression on inputs far from centred; returns the losses."""
    keys = jax.random.split(jax.random.key(seed), 4)
    x = 1.0 + 0.3 * jax.random.normal(keys[0], (64, 12))
    y = jnp.sin(x @ jax.random.normal(keys[1], (12, 3)))
    params = {
        "l1": {"kernel": jax.random.normal(keys[2], (12, 24)) / 12**0.5, "bias": jnp.zeros(24)},
        "l2": {"kernel": jax.random.normal(keys[3], (24, 3)) / 24**0.5, "bias": jnp.zeros(3)},
    }

    def step(carry, _):
        params, state = carry
        value, (gradients, statistics) = jax.value_and_grad(mean_square, (0, 1))(
            params, layer_taps(params), x, y
        )
        updates, state = tx.update(gradients, state, params, statistics=statistics, value=value)
        return (optax.apply_updates(params, updates), state), value

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps))
    (_, state), losses = run((params, tx.init(params)))
    return np.asarray(losses), state


@pytest.mark.parametrize("as_released", [False, True])
def test_beats_momentum_at_equal_steps_and_rate(as_released):
    sgd = optax.with_extra_args_support(optax.sgd(0.1, momentum=0.9))
    for seed in range(2):
        theirs, _ = train(sgd, 200, seed=seed)
        ours, _ = train(mkor(0.1, as_released=as_released), 200, seed=seed)
        assert ours[-1] < 0.6 * theirs[-1]


def test_the_hybrid_switches_once_and_leaves_the_factors():
    losses, state = train(mkor_h(0.03, window=10, tolerance=0.5, update_interval=1), 100)
    plain, _ = train(mkor(0.03, update_interval=1), 100)
    means = losses.reshape(-1, 10).mean(axis=1)
    switch = 10 * (2 + int(np.argmax(means[1:] > 0.5 * means[:-1])))
    assert not state[0].active
    np.testing.assert_allclose(losses[: switch + 1], plain[: switch + 1], rtol=1e-4)
    assert abs(losses[switch + 5] - plain[switch + 5]) > 1e-4 * plain[switch + 5]
    _, stopped = train(mkor_h(0.03, window=10, tolerance=0.5, update_interval=1), switch)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        state[0].inner.factors,
        stopped[0].inner.factors,
    )
    _, kept = train(mkor_h(0.03, window=100), 100)
    assert bool(kept[0].active)


def test_state_is_two_squares_a_layer():
    params = {"kernel": jnp.ones((6, 5)), "bias": jnp.ones(5)}
    assert sum(x.size for x in jax.tree.leaves(scale_by_mkor().init(params))) == 7**2 + 5**2 + 1
    del params["bias"]
    assert sum(x.size for x in jax.tree.leaves(scale_by_mkor().init(params))) == 6**2 + 5**2 + 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"b1": 1.0}, "b1 must lie in"),
        ({"factor_decay": 0.0}, "factor_decay must lie in"),
        ({"update_interval": 0}, "update_interval must lie in"),
        ({"stabilizer": 2.0}, "stabilizer must lie in"),
        ({"max_factor": 0.0}, "max_factor must lie in"),
        ({"clip": 0.0}, "clip must lie in"),
        ({"window": 0}, "window must lie in"),
        ({"tolerance": -1.0}, "tolerance must lie in"),
    ],
)
def test_errors_name_the_argument(arguments, words):
    with pytest.raises(ValueError, match=words):
        mkor_h(0.1, **arguments)


def test_what_is_missing_is_named():
    params = {"a": {"kernel": jnp.ones((2, 2))}, "b": {"kernel": jnp.ones((2, 2))}}
    tx = mkor_h(0.1)
    state, taps = tx.init(params), layer_taps(params)
    with pytest.raises(ValueError, match="statistics must be given"):
        tx.update(params, state, params, value=1.0)
    with pytest.raises(ValueError, match="no entry for the layer 'b'"):
        tx.update(params, state, params, value=1.0, statistics={"a": taps["a"]})
    with pytest.raises(ValueError, match="value must be given"):
        tx.update(params, state, params, statistics=taps)
    with pytest.raises(ValueError, match="tap is of a layer"):
        watch(jnp.ones(3), jnp.ones(2), taps["a"])
    with pytest.raises(ValueError, match="tap is of a layer"):
        watch_conv(jnp.ones((4, 4, 1)), jnp.ones((4, 4, 2)), taps["a"], window=(3, 3))
    with pytest.raises(ValueError, match="x must have height, width and channels"):
        watch_conv(jnp.ones((4, 4)), jnp.ones((4, 4)), taps["a"], window=(3, 3))
