"""Each estimator against its formula, on a quadratic whose hypergradient is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from optlab import hypergrad

rng = np.random.default_rng(0)
_root = rng.normal(size=(5, 5))
A = (_root @ _root.T / 5 + np.eye(5)).astype(np.float32)
B = rng.normal(size=(5, 3)).astype(np.float32)
T = rng.normal(size=5).astype(np.float32)
L = float(np.linalg.eigvalsh(A)[-1])

X = {"a": jnp.array([0.3, -1.0]), "b": jnp.array(0.7)}
FLAT_X = np.array([0.3, -1.0, 0.7], np.float32)
FLAT_Y = np.linalg.solve(A, B @ FLAT_X)
Y = (jnp.asarray(FLAT_Y[:2]), {"w": jnp.asarray(FLAT_Y[2:]).reshape(3, 1), "none": None})


def inner(x, y, batch):
    y, x = ravel_pytree(y)[0], ravel_pytree(x)[0]
    a, b = batch
    return 0.5 * y @ a @ y - y @ (b @ x)


def outer(x, y, batch):
    y, x = ravel_pytree(y)[0], ravel_pytree(x)[0]
    return 0.5 * jnp.sum((y - batch) ** 2) + 0.5 * jnp.sum(x**2)


ADJOINT = FLAT_Y - T  # f_y
EXACT = FLAT_X + B.T @ np.linalg.solve(A, ADJOINT)


def of_adjoint(v):
    return FLAT_X + B.T @ v


@functools.partial(jax.jit, static_argnums=0)
def _run(estimator, x, y, inner_batch, key, state):
    return estimator.estimate(outer, inner, x, y, T, inner_batch, key=key, state=state)


def run(estimator, x=X, y=Y, inner_batch=(A, B), key=0, state=None):
    h, info = _run(estimator, x, y, inner_batch, jax.random.key(key), state)
    assert jax.tree.structure(h) == jax.tree.structure(x)
    return ravel_pytree(h)[0], info


GOOD = {
    "cg": hypergrad.cg(),
    "gmres": hypergrad.gmres(),
    "exact": hypergrad.exact(),
    "neumann": hypergrad.neumann(100, 1 / L),
    "nystrom": hypergrad.nystrom(5, 1e-3),
    "fixed_point": hypergrad.fixed_point(
        lambda x, y, b: jax.tree.map(lambda y, g: y - g / L, y, jax.grad(inner, 1)(x, y, b))
    ),
    "unrolled": hypergrad.unrolled(optax.sgd(1 / L), 100),
    "forward": hypergrad.unrolled(optax.sgd(1 / L), 100, mode="forward"),
    "penalty": hypergrad.penalty(300.0, optax.sgd(1 / L), 100),
    "best_response": hypergrad.best_response(optax.sgd(20.0), 200),
}


@pytest.mark.parametrize("name", GOOD)
def test_is_right_and_knows_it(name):
    h, info = run(GOOD[name])
    rough = {"nystrom": 2e-3, "penalty": 5e-3, "best_response": 1e-2}
    assert np.linalg.norm(h - EXACT) < rough.get(name, 1e-5) * np.linalg.norm(EXACT)
    assert not info.failed
    np.testing.assert_allclose(ravel_pytree(info.y)[0], FLAT_Y, atol=1e-5)


def test_one_step_identity_and_finite_difference():
    for estimator, step in ((hypergrad.one_step(0.3), 0.3), (hypergrad.identity(), 1.0)):
        h, info = run(estimator)
        np.testing.assert_allclose(h, of_adjoint(step * ADJOINT), rtol=1e-5)
        assert info.failed
    h, info = run(hypergrad.finite_difference(0.3, radius=0.1, tolerance=None))
    np.testing.assert_allclose(h, of_adjoint(0.3 * ADJOINT), rtol=1e-4)
    assert info.products == 0


def test_rank_one():
    y = jax.tree.map(lambda leaf: leaf + 0.1, Y)
    g = A @ (FLAT_Y + 0.1) - B @ FLAT_X
    b = FLAT_Y + 0.1 - T
    h, _ = run(hypergrad.rank_one(), y=y)
    np.testing.assert_allclose(h, of_adjoint(b @ g / (g @ g) * g), rtol=1e-4)
    # Where the inner gradient vanishes there is no direction left, and no NaN.
    zeros = jax.tree.map(jnp.zeros_like, Y)
    h, info = run(hypergrad.rank_one(), y=zeros, inner_batch=(A, 0 * B))
    np.testing.assert_allclose(h, FLAT_X)
    assert info.failed


def test_neumann_terms():
    m = np.eye(5) - A / L
    v = sum(np.linalg.matrix_power(m, k) @ ADJOINT for k in range(4)) / L
    h, info = run(hypergrad.neumann(3, 1 / L, tolerance=None))
    np.testing.assert_allclose(h, of_adjoint(v), rtol=1e-5)
    assert info.products == 3


def test_neumann_with_fresh_batches():
    """Factor k sees batch k, and the cross derivative the last."""
    a = np.stack([A, 1.1 * A, 0.9 * A]).astype(np.float32)
    b = np.stack([B, 2 * B, 3 * B]).astype(np.float32)
    m = [np.eye(5) - a[k] / L for k in range(2)]
    v = (ADJOINT + m[0] @ ADJOINT + m[1] @ m[0] @ ADJOINT) / L
    h, _ = run(hypergrad.neumann(2, 1 / L, fresh_batches=True), inner_batch=(a, b))
    np.testing.assert_allclose(h, FLAT_X + 3 * B.T @ v, rtol=1e-5)
    with pytest.raises(ValueError, match="inner_batch must have a leading axis of 4"):
        run(hypergrad.neumann(3, 1 / L, fresh_batches=True), inner_batch=(a, b))


def test_randomized_neumann_is_unbiased():
    terms, draws = 4, 4000
    m = np.eye(5) - A / L
    v = sum(np.linalg.matrix_power(m, k) @ ADJOINT for k in range(terms)) / L
    estimator = hypergrad.neumann(terms, 1 / L, randomized=True, tolerance=None)
    one = lambda key: estimator.estimate(outer, inner, X, Y, T, (A, B), key=key)[0]  # noqa: E731
    samples = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), draws))
    mean = ravel_pytree(jax.tree.map(lambda s: s.mean(0), samples))[0]
    spread = np.concatenate([np.std(s, axis=0).ravel() for s in jax.tree.leaves(samples)])
    assert np.all(np.abs(mean - of_adjoint(v)) < 4 * spread / np.sqrt(draws) + 1e-4)


def test_nystrom_is_its_woodbury_form():
    """With all rows the approximation is the Hessian, and with some what the formula says."""
    rho = 0.1
    h, _ = run(hypergrad.nystrom(5, rho))
    np.testing.assert_allclose(
        h, of_adjoint(np.linalg.solve(A + rho * np.eye(5), ADJOINT)), rtol=1e-3
    )
    h, info = run(hypergrad.nystrom(2, rho))
    candidates = []
    for rows in [(i, j) for i in range(5) for j in range(i)]:
        c = A[list(rows)]
        low_rank = c.T @ np.linalg.solve(c[:, list(rows)], c)
        candidates.append(of_adjoint(np.linalg.solve(low_rank + rho * np.eye(5), ADJOINT)))
    assert min(np.linalg.norm(h - c) for c in candidates) < 1e-3 * np.linalg.norm(h)
    assert info.products == 4


@pytest.mark.parametrize("name", ["cg", "fixed_point"])
def test_a_warm_start_saves_products(name):
    _, cold = run(GOOD[name])
    h, warm = run(GOOD[name], state=cold.state)
    np.testing.assert_allclose(h, EXACT, rtol=1e-4)
    assert warm.products < cold.products
    with pytest.raises(TypeError, match="state must have the structure of what init"):
        run(GOOD[name], state=())


def test_a_preconditioner_saves_steps():
    """The inverse itself leaves one step; a poor start is forgiven."""
    inverse = jnp.linalg.inv(A)

    def precondition(x, y, batch):
        _, unravel = ravel_pytree(y)
        return lambda r: unravel(inverse @ ravel_pytree(r)[0])

    h, info = run(hypergrad.cg(preconditioner=precondition, rtol=1e-5))
    np.testing.assert_allclose(h, EXACT, rtol=1e-4)
    assert info.products <= 2 + 2 + 2


def test_damping_biases_and_is_flagged():
    h, info = run(hypergrad.cg(damping=0.5))
    np.testing.assert_allclose(
        h, of_adjoint(np.linalg.solve(A + 0.5 * np.eye(5), ADJOINT)), rtol=1e-4
    )
    assert info.failed


def test_a_saddle_is_flagged():
    """Where the inner Hessian is indefinite, y is no minimiser."""
    y = jax.tree.map(jnp.zeros_like, Y)
    estimators = hypergrad.exact(), hypergrad.cg(), hypergrad.unrolled(optax.sgd(0.1), 30)
    for rounding in 1e-7 * np.arange(8):  # no matter where the rounding of a solve lies
        shift = 2 * np.linalg.eigvalsh(A)[1] * (1 + rounding) * np.eye(5)
        for estimator in estimators:
            saddle = A - shift.astype(np.float32)
            assert run(estimator, y=y, inner_batch=(saddle, B))[1].failed


def test_a_state_goes_through_scan():
    for estimator in (hypergrad.cg(), hypergrad.unrolled(optax.adam(0.1), 2)):

        def body(carry, _, estimator=estimator):
            x, y, state = carry
            h, info = estimator.estimate(outer, inner, x, y, T, (A, B), state=state)
            x = optax.tree.add_scale(x, -0.1, h)
            return (x, info.y, info.state), info.residual

        start = (X, Y, estimator.init(X, Y))
        _, residuals = jax.jit(lambda c, e=body: jax.lax.scan(e, c, length=3))(start)
        assert residuals.shape == (3,)


def test_vmap_gives_what_a_loop_gives():
    xs = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), X)
    estimate = hypergrad.cg().estimate
    run_one = jax.jit(lambda x: estimate(outer, inner, x, Y, T, (A, B)))
    together, infos = jax.vmap(run_one)(xs)
    assert infos.failed.shape == (2,)
    alone = [run_one(jax.tree.map(lambda leaf, i=i: leaf[i], xs))[0] for i in range(2)]
    for leaf, *leaves in zip(*map(jax.tree.leaves, (together, *alone)), strict=True):
        np.testing.assert_allclose(leaf, jnp.stack(leaves), rtol=1e-5)


@pytest.mark.parametrize("estimator", [hypergrad.cg(max_steps=8), hypergrad.exact()])
def test_bfloat16(estimator):
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (X, Y))
    batches = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), (T, (A, B)))
    run = jax.jit(lambda *args: estimator.estimate(outer, inner, *args)[0])
    h = run(*low, *batches)
    assert {leaf.dtype for leaf in jax.tree.leaves(h)} == {jnp.dtype(jnp.bfloat16)}
    flat = np.asarray(ravel_pytree(h)[0], np.float32)
    assert np.linalg.norm(flat - EXACT) < 0.1 * np.linalg.norm(EXACT)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hypergrad.cg(max_steps=0), "max_steps"),
        (lambda: hypergrad.cg(damping=-1.0), "damping"),
        (lambda: hypergrad.neumann(0, 0.1), "terms"),
        (lambda: hypergrad.neumann(1, -0.1), "step_size"),
        (lambda: hypergrad.nystrom(3, 0.0), "damping"),
        (lambda: hypergrad.finite_difference(0.1, radius=0.0), "radius"),
        (lambda: hypergrad.unrolled(optax.sgd(0.1), 5, truncate=6), "truncate"),
        (lambda: hypergrad.unrolled(optax.sgd(0.1), 5, mode="sideways"), "mode"),
        (lambda: hypergrad.unrolled(optax.sgd(0.1), 5, mode="forward", checkpoint=2), "checkpoint"),
        (lambda: hypergrad.penalty(0.0, optax.sgd(0.1), 5), "strength"),
        (lambda: hypergrad.evolution(optax.sgd(0.1), 5, pairs=0), "pairs"),
        (lambda: hypergrad.persistent_evolution(optax.sgd(0.1), 5, horizon=3), "horizon"),
        (lambda: hypergrad.best_response(optax.sgd(0.1), 0), "steps"),
        (lambda: hypergrad.cg(tolerance=0.0), "tolerance"),
        (lambda: hypergrad.cg(rtol=float("nan")), "rtol"),
        (lambda: hypergrad.exact(tolerance=-1.0), "tolerance"),
    ],
)
def test_bad_hyperparameters(make, message):
    with pytest.raises(ValueError, match=f"^{message} "):
        make()


def test_bad_problems():
    estimate = hypergrad.cg().estimate
    with pytest.raises(TypeError, match=r"x must hold floating-point arrays, but x\['a'\]"):
        estimate(outer, inner, {**X, "a": jnp.array([1, 2])}, Y, T, (A, B))
    with pytest.raises(ValueError, match="outer must return one scalar"):
        estimate(lambda x, y, b: y[0], inner, X, Y, T, (A, B))
    with pytest.raises(ValueError, match="inner must return one scalar"):
        estimate(outer, lambda x, y, b: (inner(x, y, b), y), X, Y, T, (A, B))
    for estimator in (hypergrad.nystrom(1), hypergrad.neumann(2, 0.1, randomized=True)):
        with pytest.raises(ValueError, match="key must be given"):
            estimator.estimate(outer, inner, X, Y, T, (A, B))
    sgd, key = optax.sgd(0.1), jax.random.key(0)
    for make in (hypergrad.unrolled, hypergrad.evolution, hypergrad.persistent_evolution):
        with pytest.raises(ValueError, match="outer must return one scalar"):
            make(sgd, 2).estimate(lambda x, y, b: y[0], inner, X, Y, T, (A, B), key=key)
    with pytest.raises(ValueError, match="inner must return one scalar"):
        hypergrad.penalty(1.0, sgd, 2).estimate(outer, lambda x, y, b: y[0], X, Y, T, (A, B))
    with pytest.raises(TypeError, match="contraction"):
        hypergrad.fixed_point(lambda x, y, b: y[0]).estimate(outer, inner, X, Y, T, (A, B))
