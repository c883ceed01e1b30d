"""SSO against the authors' code, least squares, the bound that it minimises, and its claim."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab.transforms.adaptive import armijo_descent, scale_by_adagrad_norm, sso
from tests import golden


def linear(w, batch):
    return batch["x"] @ w.T


def cross_entropy(outputs, batch):
    return optax.softmax_cross_entropy_with_integer_labels(outputs, batch["y"]).mean()


def run(solver, params, batches):
    """The params after each step, and what the steps saw; ``batches`` has a leading axis."""

    def step(state, batch):
        state, info = solver.step(state, batch)
        return state, (state.params, info)

    def scan(params, batches):
        state = solver.init(params, jax.tree.map(lambda x: x[0], batches))
        return jax.lax.scan(step, state, batches)[1]

    return jax.jit(scan)(params, batches)


def released_outer(name, eta):
    """The authors' eta is an inverse step, and their penalty lacks a half."""
    return {
        "const": optax.sgd(0.5 / eta),
        "m1": optax.sgd(0.5 / eta),
        "ada": optax.chain(scale_by_adagrad_norm(1e-6 / eta), optax.sgd(0.5 / eta)),
        "sls": optax.chain(armijo_descent(1 / eta), optax.scale(0.5)),
    }[name]


@pytest.mark.parametrize("name", ["const", "m1", "ada", "sls"])
def test_replays_the_authors_training(name):
    # WilderLavington/Target-Based-Surrogates-For-Stochastic-Optimization @205dde6, in float64.
    file = golden.load(f"opt_sso_{name}")
    hyper = file["hyper"]
    inner = armijo_descent(
        hyper["init_step"], slope=hyper["c"], decrease=hyper["beta"], increase=hyper["expand"]
    )
    outer = released_outer(name, hyper["eta"])
    solver = sso(linear, cross_entropy, outer, inner=inner, inner_steps=hyper["m"])
    with jax.enable_x64(True):
        x, rows = jnp.asarray(file["x"], jnp.float64), file["batch_idx"]
        batches = {"x": x[rows], "y": jnp.asarray(file["y"])[rows]}
        params, info = run(solver, jnp.asarray(file["init_W"], jnp.float64), batches)
        full = jax.vmap(lambda w: cross_entropy(x @ w.T, {"y": jnp.asarray(file["y"])}))(params)
    np.testing.assert_allclose(params, file["params_W"], rtol=0, atol=1e-13)
    np.testing.assert_allclose(full, file["full_loss"], rtol=0, atol=1e-13)
    assert (info.after < info.before).all()


@pytest.fixture(scope="module")
def problem():
    """The same 64 examples in each of 15 steps: features of unlike scale, labels with noise."""
    rng = np.random.default_rng(0)
    scales, x = np.geomspace(0.03, 2, 8), rng.normal(size=(64, 8))
    scores = x @ rng.normal(size=(8, 3))
    y = np.argmax(scores + rng.gumbel(size=scores.shape), axis=1)
    batch = {"x": jnp.asarray(x * scales, jnp.float32), "y": jnp.asarray(y)}
    batches = jax.tree.map(lambda a: jnp.broadcast_to(a[None], (15, *a.shape)), batch)
    return jnp.zeros((3, 8)), batches


def test_many_inner_steps_project_the_gradient_step():
    # With the outputs X w, the least-squares fit to z - alpha g is w - alpha X^+ g.
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(12, 4)), rng.normal(size=4)
    batch = {"x": jnp.asarray(x[None], jnp.float32)}
    loss = lambda z, batch: jnp.sum(jnp.cosh(0.3 * z))  # noqa: E731
    solver = sso(lambda w, b: b["x"] @ w, loss, optax.sgd(0.7), inner_steps=400)
    params, info = run(solver, jnp.asarray(w, jnp.float32), batch)
    gradient = 0.3 * np.sinh(0.3 * (x @ w))
    want = w - 0.7 * np.linalg.pinv(x) @ gradient
    np.testing.assert_allclose(params[0], want, rtol=0, atol=2e-4)
    np.testing.assert_allclose(info.before[0], np.mean((0.7 * gradient) ** 2), rtol=1e-5)
    np.testing.assert_allclose(info.value[0], np.cosh(0.3 * (x @ w)).sum(), rtol=1e-5)


@pytest.mark.parametrize("inner", [None, optax.adam(0.02)], ids=["armijo", "adam"])
def test_the_surrogate_falls_and_bounds_the_loss(problem, inner):
    params, batches = problem
    alpha = 2 * 64.0  # softmax cross entropy is 1/2-smooth, and the loss a mean over 64
    solver = sso(linear, cross_entropy, optax.sgd(alpha), inner=inner, inner_steps=5)
    path, info = run(solver, params, batches)
    assert (info.after < info.before).all()
    bound = info.value + (info.after - info.before) * (64 * 3) / (2 * alpha)
    last = cross_entropy(linear(path[-1], {"x": batches["x"][0]}), {"y": batches["y"][0]})
    values = np.append(info.value, last)
    assert (values[1:] <= bound + 1e-6).all()
    assert (np.diff(values) < 0).all()


def test_inner_steps_save_gradients_of_the_loss(problem):
    """The claim: at equal numbers of the loss's gradients, more steps of the model go further."""
    params, batches = problem
    batch = jax.tree.map(lambda x: x[0], batches)

    def last(alpha, inner_steps):
        solver = sso(linear, cross_entropy, optax.sgd(alpha), inner_steps=inner_steps)
        return run(solver, params, batches)[1].value[-1]

    def descent(rate):
        def step(w, _):
            value, gradient = jax.value_and_grad(lambda w: cross_entropy(linear(w, batch), batch))(
                w
            )
            return w - rate * gradient, value

        return jax.lax.scan(step, params, length=15)[1][-1]

    best = [
        jnp.min(jax.vmap(lambda a, m=m: last(a, m))(jnp.array([128.0, 512.0]))) for m in (1, 20)
    ]
    plain = jnp.min(jax.vmap(descent)(jnp.array([0.3, 1.0, 3.0])))
    # Seen: 0.55 after 20 inner steps, 0.76 after one, 0.83 by gradient descent.
    assert best[1] < 0.8 * best[0] < 0.8 * plain


def test_the_gradient_of_the_loss_is_taken_once_a_step(problem):
    params, batches = problem
    batch = jax.tree.map(lambda x: x[0], batches)
    calls = {"predict": 0, "loss": 0}

    def predict(params, batch):
        calls["predict"] += 1
        return linear(params, batch)

    def loss(outputs, batch):
        calls["loss"] += 1
        return cross_entropy(outputs, batch)

    solver = sso(predict, loss, optax.sgd(1.0), inner_steps=50)
    jax.make_jaxpr(solver.step)(solver.init(params, batch), batch)
    assert calls["loss"] == 1
    assert calls["predict"] < 10  # the inner steps are one loop


def test_outputs_may_be_a_tree_of_any_dtype_and_solvers_are_vmapped(problem):
    _, batches = problem
    batch = jax.tree.map(lambda x: x[0], batches)

    def predict(params, batch):
        return {k: batch["x"].astype(w.dtype) @ w.T for k, w in params.items()}

    def loss(outputs, batch):
        return cross_entropy(outputs["a"].astype(jnp.float32) + outputs["b"], batch)

    solver = sso(predict, loss, armijo_descent(64.0), inner=optax.sgd(0.1), inner_steps=3)

    def train(key):
        w = 0.1 * jax.random.normal(key, (3, 8))
        state = solver.init({"a": w.astype(jnp.bfloat16), "b": w}, batch)
        return jax.lax.scan(lambda s, _: solver.step(s, batch), state, length=4)

    keys = jax.random.split(jax.random.key(0), 2)
    state, info = jax.jit(jax.vmap(train))(keys)
    assert state.params["a"].dtype == jnp.bfloat16
    assert (info.value[:, -1] < info.value[:, 0]).all()
    one, _ = jax.jit(train)(keys[1])
    np.testing.assert_allclose(state.params["b"][1], one.params["b"], rtol=1e-3, atol=1e-4)


def test_the_state_does_not_hold_the_callers_buffers(problem):
    params, batches = problem
    solver = sso(linear, cross_entropy, optax.sgd(1.0))
    state = solver.init(params, jax.tree.map(lambda x: x[0], batches))
    assert state.params.unsafe_buffer_pointer() != params.unsafe_buffer_pointer()


def test_the_state_is_the_params_and_the_outer_optimizers(problem):
    params, batches = problem
    solver = sso(linear, cross_entropy, optax.adam(1.0))  # two moments and a counter
    state = solver.init(params, jax.tree.map(lambda x: x[0], batches))
    assert sum(x.size for x in jax.tree.leaves(state)) == 3 * 8 + 2 * (64 * 3) + 1


def test_adagrad_norm_is_one_scalar_over_the_tree():
    tx = scale_by_adagrad_norm(1e-3)
    grads = [
        {"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)},
        {"a": jnp.ones(2), "b": jnp.ones(())},
    ]
    state = tx.init(grads[0])
    assert sum(x.nbytes for x in jax.tree.leaves(state)) == 4
    total = 0.0
    for g in grads:
        updates, state = tx.update(g, state)
        total += sum(float(jnp.sum(x**2)) for x in g.values())
        np.testing.assert_allclose(updates["a"], g["a"] / (total**0.5 + 1e-3), rtol=1e-6)
        np.testing.assert_allclose(updates["b"], g["b"] / (total**0.5 + 1e-3), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sso(linear, cross_entropy, optax.sgd(1.0), inner_steps=0), "inner_steps must be"),
        (lambda: armijo_descent(0.0), "step_size must lie in"),
        (lambda: armijo_descent(slope=1.0), "slope must lie in"),
        (lambda: armijo_descent(decrease=1.0), "decrease must lie in"),
        (lambda: armijo_descent(increase=0.5), "increase must lie in"),
        (lambda: armijo_descent(max_tries=0), "max_tries must be"),
        (lambda: scale_by_adagrad_norm(0.0), "eps must lie in"),
    ],
)
def test_errors_name_the_argument(make, words):
    with pytest.raises(ValueError, match=words):
        make()
