"""Implicit derivatives: accuracy, what may be passed, what is reported, what users ran into."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import checkify

from optlab import implicit, linalg
from optlab.implicit import conditions
from optlab.problems import HYPERGRADIENT_PROBLEMS, hypergradient_problem

A = np.random.default_rng(0).normal(size=(12, 4))
TARGETS = np.random.default_rng(1).normal(size=12)


def _ridge(x, t):
    residuals = jnp.asarray(A, x.dtype) @ x - jnp.asarray(TARGETS, x.dtype)
    return 0.5 * jnp.mean(residuals**2) + 0.5 * jnp.exp(t) * jnp.sum(x**2)


def _closed(t):
    dtype = jnp.asarray(t).dtype
    normal, right = (jnp.asarray(v, dtype) for v in (A.T @ A / 12, A.T @ TARGETS / 12))
    return jnp.linalg.solve(normal + jnp.exp(t) * jnp.eye(4, dtype=dtype), right)


solve_ridge = implicit.custom_root(conditions.stationarity(_ridge))(lambda init, t: _closed(t))


def _error(name, dtype):
    """Of the default, with the exact solution given."""
    problem = hypergradient_problem(name, dtype)

    def inner(y, x, batch):
        return problem.inner(x, y, batch)

    solve = implicit.custom_root(conditions.stationarity(inner))(lambda init, *args: init)

    def outer(x):
        return problem.outer(x, solve(problem.y, x, problem.inner_batch), problem.outer_batch)

    return problem.error(jax.jit(jax.grad(outer))(problem.x))


@pytest.mark.parametrize("name", HYPERGRADIENT_PROBLEMS)
def test_the_default_is_accurate_on_the_stored_problems(name):
    """On ``ridge_bc_ill`` the default of jaxopt and TorchOpt is 99 % off."""
    with jax.enable_x64(True):
        assert _error(name, jnp.float64) <= 1e-8
    assert _error(name, jnp.float32) <= 1e-5


def test_value_and_grad_is_the_gradient():
    """jaxopt issue 141: the gradient through a vjp of a root was wrong."""
    with jax.enable_x64(True):

        def inner_gradient(t):
            return jax.value_and_grad(lambda t: jnp.sum(solve_ridge(None, t) ** 3))(t)[1]

        want = jax.hessian(lambda t: jnp.sum(_closed(t) ** 3))(-1.0)
        for second in (jax.grad, jax.jacfwd, jax.jacrev):
            np.testing.assert_allclose(jax.jit(second(inner_gradient))(-1.0), want, rtol=1e-9)


def test_vmap_jacrev_and_scalars():
    """TorchOpt issues 222 and 223: scalar inputs had zero gradients; vmap and jacrev failed."""
    with jax.enable_x64(True):
        root = implicit.custom_root(lambda x, t: x**3 + x - t)(
            lambda init, t: jax.lax.fori_loop(
                0, 60, lambda _, x: x - (x**3 + x - t) / (3 * x**2 + 1), init
            )
        )
        t = jnp.array([1.0, 2.0, 3.0])
        slopes = jax.vmap(jax.jacrev(root, argnums=1), (None, 0))(0.5, t)
        x = jax.vmap(root, (None, 0))(0.5, t)
        np.testing.assert_allclose(slopes, 1 / (3 * x**2 + 1), rtol=1e-12)


def test_runs_inside_scan():
    with jax.enable_x64(True):

        def total(t):
            return jax.lax.scan(lambda c, s: (c + jnp.sum(solve_ridge(None, s * t)), c), 0.0, S)[0]

        S = jnp.array([0.5, 1.0, 2.0])
        want = jax.grad(lambda t: sum(jnp.sum(_closed(s * t)) for s in S))(-1.0)
        np.testing.assert_allclose(jax.jit(jax.grad(total))(-1.0), want, rtol=1e-10)


def test_closed_over_tracers_get_their_derivative():
    """jaxopt issues 31 and 111: they raised, and leaked."""
    with jax.enable_x64(True):

        def loss(t):
            F = conditions.stationarity(lambda x: _ridge(x, t))
            return jnp.sum(implicit.custom_root(F)(lambda init: _closed(t))(None))

        want = jax.grad(lambda t: jnp.sum(_closed(t)))
        np.testing.assert_allclose(jax.grad(loss)(-1.0), want(-1.0), rtol=1e-10)
        with jax.checking_leaks():
            np.testing.assert_allclose(jax.jit(jax.grad(loss))(-1.0), want(-1.0), rtol=1e-10)


def test_arguments_of_any_kind_pass():
    def F(x, d):
        return x * x - d["t"] * d["count"] * (1 + 0 * jax.random.normal(d["key"]))

    @implicit.custom_root(F)
    def solver(init, d):
        return jnp.sqrt(d["t"] * d["count"]) if d["flag"] and d["name"] == "a" else init

    d = {"count": jnp.array(2), "key": jax.random.key(0), "none": None, "flag": True, "name": "a"}
    gradient = jax.grad(lambda t, d: solver(None, {**d, "t": t}))
    np.testing.assert_allclose(gradient(2.0, d), 0.5)
    keys = jax.random.split(jax.random.key(1), 2)
    many = jax.vmap(lambda t, key, n: gradient(t, {**d, "key": key, "count": n}))
    np.testing.assert_allclose(many(jnp.array([1.0, 2.0]), keys, jnp.array([1, 2])), 0.5)
    arrays = {k: d[k] for k in ("count", "key")} | {"t": jnp.array(2.0)}
    both = jax.grad(lambda a: solver(None, {**d, **a}), allow_int=True)(arrays)
    assert both["count"].dtype == both["key"].dtype == jax.dtypes.float0


def test_any_solver_will_do():
    """A host callback under jit, and plain numpy where nothing is traced, also under grad."""

    def on_host(t):
        return np.asarray(_closed_numpy(np.asarray(t)), np.float32)

    def callback(fun, init, t):
        return jax.pure_callback(on_host, init, t, vmap_method="sequential")

    def plain(fun, init, t):
        assert not isinstance(t, jax.core.Tracer)
        return on_host(t)

    want = jax.grad(lambda t: jnp.sum(_closed(t)))(-1.0)
    start = jnp.zeros(4)
    for solver, wrap in ((callback, jax.jit), (plain, lambda f: f)):
        solve = implicit.argmin(_ridge, solver)
        got = wrap(jax.grad(lambda t, solve=solve: jnp.sum(solve(start, t))))(-1.0)
        np.testing.assert_allclose(got, want, rtol=1e-4)


def _closed_numpy(t):
    return np.linalg.solve(A.T @ A / 12 + np.exp(t) * np.eye(4), A.T @ TARGETS / 12)


def test_numpy_arrays_under_vmap_and_jit():
    """vmap hands them on as they are, and jit trips over that in functions with a derivative."""
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    solve = implicit.argmin(
        lambda x, t, d: jnp.sum((x - t * d) ** 2), lambda fun, init, t, d: t * d
    )

    @jax.jit
    def total(t):
        return jnp.sum(jax.vmap(solve, (None, None, 0))(jnp.zeros(2), t, rows))

    np.testing.assert_allclose(jax.grad(total)(2.0), rows.sum(), rtol=1e-6)


def test_aux():
    def with_aux(x, t):
        return _ridge(x, t), jnp.sum(x)

    want = jax.grad(lambda t: jnp.sum(_closed(t)))(-1.0)
    solve = implicit.argmin(with_aux, implicit.minimize(optax.lbfgs(), tol=1e-5), has_aux=True)
    gradient = jax.jit(jax.grad(lambda t: solve(jnp.zeros(4), t)[1]))
    np.testing.assert_allclose(gradient(-1.0), want, rtol=1e-3)
    tell = implicit.minimize(optax.sgd(0.3), tol=1e-5, with_info=True)
    solve = implicit.argmin(_ridge, tell, solver_has_aux=True)
    x, info = solve(jnp.zeros(4), -1.0)
    assert info.gradient_norm <= 1e-5
    assert 5 < info.steps < 1000
    np.testing.assert_allclose(x, _closed(-1.0), atol=1e-4)


def test_the_derivative_in_the_start_is_a_choice():
    """optimistix issue 54: a meta-gradient that was exactly zero, without a word."""
    F = conditions.stationarity(lambda x, t: 0.5 * jnp.sum((x - t) ** 2))

    def slopes(choice):
        solve = implicit.custom_root(F, init_cotangent=choice)(lambda init, t: t)
        return jax.grad(lambda i: jnp.sum(solve(i, jnp.ones(2)) * jnp.array([1.0, 2.0])))(
            jnp.zeros(2)
        ).tolist()

    assert slopes("zero") == [0, 0]
    assert slopes("identity") == [1, 2]
    assert slopes(lambda ct: 3.0 * ct) == [3, 6]
    with pytest.raises(TypeError, match="does not depend on init"):
        slopes("error")


def test_a_projected_solver_that_stops_early_is_reported():
    """jaxopt issue 582: ProjectedGradient ignored its tolerance, and nobody was told."""
    project = optax.projections.projection_non_negative

    def fun(x, t):
        return 0.5 * jnp.sum(jnp.array([1.0, 0.1]) * (x - t) ** 2)

    def slope(steps):
        def solver(init, t):
            step = lambda _, x: project(x - jax.grad(fun)(x, t))  # noqa: E731
            return jax.lax.fori_loop(0, steps, step, init)

        solve = implicit.custom_root(conditions.projected_gradient(fun, project))(solver)
        return jax.jit(jax.jacrev(lambda t: solve(jnp.zeros(2), t * jnp.ones(2))))(1.0)

    assert jnp.isnan(slope(20)).all()
    np.testing.assert_allclose(slope(200), 1.0, rtol=1e-5)


def _off(factor, **options):
    F = conditions.stationarity(_ridge)
    return implicit.custom_root(F, **options)(lambda init, t: factor * _closed(t))


def test_an_unsolved_problem_is_reported():
    def gradient(solve):
        return jax.jit(jax.grad(lambda t: jnp.sum(solve(None, t))))

    assert jnp.isnan(gradient(_off(1.1))(-1.0))
    assert jnp.isnan(jax.jacfwd(lambda t: _off(1.1)(None, t))(-1.0)).all()
    assert jnp.isfinite(_off(1.1)(None, -1.0)).all(), "the value stays"
    assert jnp.isfinite(gradient(_off(1.1, on_fail="ignore"))(-1.0))
    assert jnp.isfinite(gradient(_off(1.1, tol=0.2))(-1.0))
    assert jnp.isfinite(gradient(_off(1.0))(-1.0))
    for factor, message in ((1.1, "not solved"), (1.0, None)):
        error, _ = checkify.checkify(gradient(_off(factor, on_fail="error")))(-1.0)
        assert (message in error.get()) if message else error.get() is None


def test_a_small_residual_far_from_the_solution_is_seen():
    """On an ill-conditioned problem: the gradient's norm is 1e-5, the solution is 90 % off."""
    scales = jnp.array([1.0, 1e-5])
    F = conditions.stationarity(lambda x, t: 0.5 * jnp.sum(scales * (x - t) ** 2))
    solve = implicit.custom_root(F)(lambda init, t: t * jnp.array([1.0, 0.1]))
    assert jnp.isnan(jax.grad(lambda t: jnp.sum(solve(None, t)))(1.0))


def test_a_linear_solve_that_fails_is_reported_in_both_modes():
    """A Jacobian that is not definite under CG."""
    F = conditions.Condition(lambda x, t: jnp.array([1.0, -1.0]) * (x - t), symmetric=True)
    for on_fail, bad in (("nan", True), ("ignore", False)):
        solve = implicit.custom_root(F, on_fail=on_fail)(lambda init, t: t * jnp.ones(2))
        for mode in (jax.jacfwd, jax.jacrev):
            assert jnp.isnan(mode(lambda t, solve=solve: solve(None, t))(1.0)).any() == bad
    solve = implicit.custom_root(F, linear_solver="minres")(lambda init, t: t * jnp.ones(2))
    np.testing.assert_allclose(jax.jacrev(lambda t: solve(None, t))(1.0), 1.0, rtol=1e-6)


def test_a_singular_jacobian_is_reported():
    """Two equations that are one; GMRES still solves the consistent system of the forward mode."""

    def F(x, t):
        return jnp.ones(2) * (jnp.sum(x) - t)

    for method, mode in (("lu", jax.jacfwd), ("gmres", jax.jacrev)):
        solve = implicit.custom_root(F, linear_solver=method)(lambda init, t: 0.5 * t * jnp.ones(2))
        assert jnp.isnan(mode(lambda t, solve=solve: solve(None, t)[0] ** 2)(1.0))
    # Where F is exactly zero, Newton's step is, too, and says nothing of the Jacobian.
    for root, method, mode in (
        ([0.5, 0.5001], None, jax.jacfwd),
        ([0.5, 0.5], None, jax.jacfwd),
        ([0.5, 0.5], None, jax.jacrev),
        ([0.5, 0.5], "gmres", jax.jacrev),
    ):
        wrap = implicit.custom_root(F, on_fail="error", linear_solver=method)
        solve = wrap(lambda init, t, root=root: t * jnp.array(root))
        error, _ = checkify.checkify(jax.jit(mode(lambda t, s=solve: s(None, t)[0] ** 2)))(1.0)
        assert "the Jacobian of F is singular" in error.get()


def test_root_jvp_is_the_transpose_of_root_vjp():
    with jax.enable_x64(True):
        F = conditions.stationarity(_ridge)
        x, slope = _closed(-1.0), jax.jacfwd(_closed)(-1.0)
        np.testing.assert_allclose(implicit.root_jvp(F, x, (-1.0,), (1.0,)), slope, rtol=1e-8)
        cotangent = jnp.arange(4.0)
        got = implicit.root_vjp(F, x, (-1.0,), cotangent)[0]
        np.testing.assert_allclose(got, cotangent @ slope, rtol=1e-8)


def test_tasks_under_vmap_share_traces_and_solves():
    """jaxopt PR 230: meta-learning through an implicit inner solve took hours."""

    def counted(tasks, on_fail):
        traces, solves = [], []

        def inner(y, x, batch):
            traces.append(1)
            return jnp.mean((batch[0] @ y - batch[1]) ** 2) + jnp.sum((y - x) ** 2)

        def solver(matvec, b):
            jax.debug.callback(lambda: solves.append(1))
            return linalg.solve(matvec, b)

        minimize = implicit.minimize(optax.sgd(0.1), max_steps=50)
        solve = implicit.argmin(inner, minimize, linear_solver=solver, on_fail=on_fail)
        batches = jnp.ones((tasks, 5, 3)), jnp.ones((tasks, 5))
        adapt = jax.vmap(solve, (None, None, 0))
        gradient = jax.jit(jax.grad(lambda x: jnp.mean(adapt(jnp.zeros(3), x, batches) ** 2)))
        for start in (0.0, 1.0):
            gradient(start * jnp.ones(3))
        jax.effects_barrier()
        return len(traces), len(solves) / 2

    # Two of the loop; one of the condition, one of its derivative. The check is a rough solve.
    assert counted(2, "ignore") == counted(8, "ignore") == (4, 1)
    assert counted(2, "nan") == (4, 2)


def test_adam_at_a_zero_gradient_gives_no_nan():
    """The root of its second moment has no derivative at zero; no step is differentiated."""
    solver = implicit.minimize(optax.adam(0.1), max_steps=400, tol=1e-5)
    solve = implicit.argmin(lambda x, t: jnp.sum((x - t) ** 2), solver)
    slope = jax.jit(jax.grad(lambda t: jnp.sum(solve(jnp.ones(2), t))))
    np.testing.assert_allclose(slope(1.0), 2.0, rtol=1e-5)


def test_complex_solutions_with_a_linear_solver_that_takes_them():
    solver = implicit.custom_root(
        lambda x, t: x * x - t, linear_solver=lambda matvec, b: b / matvec(jnp.ones_like(b))
    )(lambda init, t: jnp.sqrt(t.astype(complex)))
    value, slope = jax.jvp(lambda t: solver(None, t), (jnp.array(-4.0),), (jnp.array(1.0),))
    np.testing.assert_allclose([value, slope], [2j, -0.25j], rtol=1e-5)


def test_bad_input_in_one_sentence():
    root, t0 = implicit.custom_root, jnp.array(1.0)
    with pytest.raises(ValueError, match="on_fail must be"):
        root(lambda x: x, on_fail="raise")
    with pytest.raises(ValueError, match="init_cotangent must be"):
        root(lambda x: x, init_cotangent="one")
    with pytest.raises(TypeError, match="F must be square"):
        root(lambda x, t: x[:1])(lambda init, t: init)(jnp.ones(2), 1.0)
    with pytest.raises(TypeError, match="the value of F must have the structure of x"):
        root(lambda x, t: {"a": x["a"]})(lambda init, t: init)({"a": 1.0, "b": t0}, 1.0)
    with pytest.raises(TypeError, match="cotangent must have the structure of x"):
        implicit.root_vjp(lambda x, t: x - t, t0, (1.0,), (1.0,))
    with pytest.raises(TypeError, match="cotangent must be like x, but at its root"):
        implicit.root_vjp(lambda x, t: x - t, t0, (1.0,), jnp.ones(2))
    with pytest.raises(TypeError, match="tangents must have the structure of args"):
        implicit.root_jvp(lambda x, t: x - t, t0, (1.0,), 1.0)
    # jaxopt issue 232: the confusion of has_aux.
    with pytest.raises(TypeError, match="needs has_aux=True"):
        root(lambda x, t: x[0])(lambda init, t: (init, 0.0))(jnp.ones(2), 1.0)
    with pytest.raises(TypeError, match=r"has_aux needs a solver that returns \(x, aux\)"):
        root(lambda x, t: x - t, has_aux=True)(lambda init, t: t)(None, 1.0)
    with pytest.raises(TypeError, match="the solution x must hold floating-point arrays"):
        root(lambda x, t: x - t)(lambda init, t: t)(None, 1)
    with pytest.raises(TypeError, match="init must hold floating-point arrays"):
        implicit.argmin(_ridge, implicit.minimize(optax.sgd(0.1)))(jnp.arange(2), None)
    # jaxopt issue 386: a solver written without an init argument.
    with pytest.raises(TypeError, match=r"F must take \(x, \*args\) where the solver takes"):
        root(lambda x, t: x - t)(lambda t: t)(1.0)
    with pytest.raises(ValueError, match="exclude each other"):
        implicit.argmin(_ridge, None, has_aux=True, solver_has_aux=True)


def test_an_inequality_with_the_wrong_sign_is_named():
    """min (x - 3)^2 where x <= 1, but written as 1 - x <= 0 beside the multiplier of x - 1 <= 0."""

    def solver(init, t):
        return conditions.KktPoint(jnp.ones(()), None, 2 * (t - 1))

    def wrap(inequality):
        F = conditions.kkt(lambda x, t: (x - t) ** 2, inequality=inequality)
        return implicit.custom_root(F)(solver)

    right, wrong = wrap(lambda x, t: x - 1.0), wrap(lambda x, t: 1.5 - x)
    assert jax.grad(lambda t: right(None, t).inequality)(3.0) == 2.0
    with pytest.raises(ValueError, match="inequality must be at most zero"):
        wrong(None, 3.0)
    assert jnp.isnan(jax.jit(jax.grad(lambda t: wrong(None, t).inequality))(3.0))
