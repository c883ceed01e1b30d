"""Every method of solve against a dense one: values, accounts, derivatives, bad input."""

import functools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from optlab.linalg import Gmres, Neumann, Nystrom, NystromPcg, solve

N = 8
RNG = np.random.default_rng(0)
BASIS = np.linalg.qr(RNG.normal(size=(N, N)))[0]
DEFINITE = BASIS @ np.diag(np.linspace(0.2, 1.5, N)) @ BASIS.T
INDEFINITE = BASIS @ np.diag(np.linspace(-1, 1.5, N)) @ BASIS.T
GENERAL = np.eye(N) + 0.2 * RNG.normal(size=(N, N))
B = RNG.normal(size=N)

METHODS = {
    "cg": ("cg", DEFINITE),
    "minres": ("minres", INDEFINITE),
    "gmres": ("gmres", GENERAL),
    "gmres_restarted": (Gmres(restart=6), GENERAL),
    "bicgstab": ("bicgstab", GENERAL),
    "lu": ("lu", GENERAL),
    "cholesky": ("cholesky", DEFINITE),
    "normal_cg": ("normal_cg", GENERAL),
    "neumann": (Neumann(1.0), DEFINITE),
    "nystrom_pcg": (NystromPcg(3), DEFINITE),
    "lineax_qr": (lx.QR(), GENERAL),
}


def _solve(matrix, b, method, **options):
    """The system on a tree of two leaves."""

    def matvec(v):
        flat = matrix @ jnp.concatenate([v["a"], v["b"]])
        return {"a": flat[:3], "b": flat[3:]}

    x, info = solve(matvec, {"a": b[:3], "b": b[3:]}, method=method, **options)
    return jnp.concatenate([x["a"], x["b"]]), info


@pytest.mark.parametrize("name", METHODS)
def test_value_account_and_derivatives(name):
    """In float64, against a dense solve; derivatives in the matrix and in a part of b."""
    method, matrix = METHODS[name]
    with jax.enable_x64(True):
        matrix, b = jnp.asarray(matrix), jnp.asarray(B)

        def loss(solver, matrix, head):
            x, info = solver(matrix, jnp.concatenate([head, b[3:]]))
            return jnp.sum(x[:4] ** 3), (x, info)

        ours = functools.partial(_solve, method=method, max_steps=400)
        dense = lambda m, b: (jnp.linalg.solve(m, b), None)  # noqa: E731
        gradient = jax.jit(jax.grad(functools.partial(loss, ours), (0, 1), has_aux=True))
        got, (x, info) = gradient(matrix, b[:3])
        want, (reference, _) = jax.grad(functools.partial(loss, dense), (0, 1), has_aux=True)(
            matrix, b[:3]
        )
    np.testing.assert_allclose(x, reference, atol=1e-8)
    np.testing.assert_allclose(got[1], want[1], atol=1e-6)
    # A symmetric method sees the symmetric part of a change of the matrix only.
    symmetric = name in ("cg", "minres", "cholesky", "nystrom_pcg")
    change = [np.asarray(g) for g in (got[0], want[0])]
    change = [g + g.T if symmetric else g for g in change]
    np.testing.assert_allclose(*change, atol=1e-6)
    true = np.linalg.norm(B - METHODS[name][1] @ np.asarray(x)) / np.linalg.norm(B)
    np.testing.assert_allclose(info.residual, true, atol=1e-12)
    assert bool(info.converged)
    assert int(info.iterations) > 0


def test_batches_keep_their_own_accounts():
    batch = jnp.asarray(np.stack([B, 0 * B, np.linalg.eigh(DEFINITE)[1][:, 0]]), jnp.float32)
    matrix = jnp.asarray(DEFINITE, jnp.float32)
    x, info = jax.jit(jax.vmap(lambda b: _solve(matrix, b, "cg")))(batch)
    np.testing.assert_allclose(x, batch @ np.linalg.inv(DEFINITE), atol=1e-4)
    assert info.iterations[1] == 0
    assert info.iterations[2] < info.iterations[0]
    assert info.converged.all()


def test_higher_orders_in_both_modes():
    with jax.enable_x64(True):
        b = jnp.asarray(B)

        def ours(t):
            return jnp.sum(solve(lambda v: jnp.asarray(DEFINITE) @ v + t * v, b * t)[0] ** 2)

        def dense(t):
            return jnp.sum(jnp.linalg.solve(DEFINITE + t * jnp.eye(N), b * t) ** 2)

        for order in (
            lambda f: jax.grad(jax.grad(f)),
            lambda f: jax.jacfwd(jax.jacrev(f)),
            lambda f: jax.jacrev(jax.jacfwd(f)),
        ):
            np.testing.assert_allclose(order(ours)(0.3), order(dense)(0.3), rtol=1e-7)


def test_a_warm_start_saves_steps():
    matrix, b = jnp.asarray(DEFINITE, jnp.float32), jnp.asarray(B, jnp.float32)
    x, cold = solve(lambda v: matrix @ v, b)
    _, warm = solve(lambda v: matrix @ v, b, x0=x)
    near, _ = solve(lambda v: matrix @ v, b, x0=x, method="lu")
    assert warm.iterations < cold.iterations
    np.testing.assert_allclose(near, x, atol=1e-5)


def test_products_are_the_steps_and_one_for_the_residual():
    matrix, b = jnp.asarray(DEFINITE, jnp.float32), jnp.asarray(B, jnp.float32)
    products = []

    def matvec(v):
        jax.debug.callback(lambda: products.append(1))
        return matrix @ v

    _, info = solve(matvec, b, rtol=1e-4)
    jax.effects_barrier()
    assert len(products) == info.iterations + 1


def test_a_small_right_hand_side_is_no_zero():
    """The squares of the residual, of b, or of x are beyond the range of float32."""
    matrix, b = jnp.asarray(DEFINITE, jnp.float32), jnp.asarray(B, jnp.float32)
    run = jax.jit(jax.vmap(lambda scale: solve(lambda v: matrix @ v, scale * b)))
    scales = jnp.array([1.0, 1e-15, 1e-25, 1e30])
    x, info = run(scales)
    np.testing.assert_allclose(x / scales[:, None], jnp.tile(x[:1], (4, 1)), rtol=1e-5)
    assert info.converged.all()


def test_a_start_out_of_reach_of_a_small_right_hand_side_is_left():
    """Scaled like b its square overflows; derivatives meet such b with the start of another."""

    def answer(b):
        return solve(lambda v: 2 * v, b, x0=jnp.ones(3))

    x, change = jax.jvp(lambda b: answer(b)[0], (jnp.ones(3),), (jnp.full(3, 1e-25),))
    np.testing.assert_allclose([x, change], [[0.5] * 3, [5e-26] * 3], rtol=1e-5)


@pytest.mark.parametrize("part", [0.0, jnp.array([1.0, 1.0, 0.0])], ids=["zero", "singular"])
def test_a_preconditioner_that_is_not_definite_gives_no_nan(part):
    diagonal = jnp.array([1.0, 2.0, 3.0])
    x, info = solve(lambda v: diagonal * v, jnp.ones(3), preconditioner=lambda r: part * r)
    np.testing.assert_allclose(x, part / diagonal, rtol=1e-5)
    assert not info.converged


def test_damping_and_preconditioner():
    scales = jnp.logspace(0, 4, 50)
    b = jnp.ones(50)
    plain, info = solve(lambda v: scales * v, b, damping=0.5)
    x, preconditioned = solve(
        lambda v: scales * v, b, damping=0.5, preconditioner=lambda v: v / (scales + 0.5)
    )
    np.testing.assert_allclose(x, 1 / (scales + 0.5), rtol=1e-4)
    np.testing.assert_allclose(plain, x, rtol=1e-3)
    assert preconditioned.iterations <= 2 < info.iterations


def test_nystrom_is_its_woodbury_form():
    """Against the dense formula, with the rows that the key draws."""
    key, rho, rank = jax.random.key(3), 0.1, 4
    with jax.enable_x64(True):
        matrix, b = jnp.asarray(DEFINITE), jnp.asarray(B)
        x, info = solve(lambda v: matrix @ v, b, method=Nystrom(rank), damping=rho, key=key)
        rows = np.asarray(jax.random.choice(key, N, (rank,), replace=False))
    c = DEFINITE[rows]
    approximation = c.T @ np.linalg.inv(c[:, rows]) @ c
    np.testing.assert_allclose(x, np.linalg.solve(approximation + rho * np.eye(N), B), rtol=1e-8)
    assert not info.converged, "an approximation must not pass for a solution"
    with jax.enable_x64(True):
        full, _ = solve(lambda v: matrix @ v, b, method=Nystrom(N), damping=rho)
    np.testing.assert_allclose(full, np.linalg.solve(DEFINITE + rho * np.eye(N), B), rtol=1e-8)


def test_float32_stays_accurate_at_a_condition_of_1e5():
    """There lineax's CG stops at a residual above one, and one LU is off by 1e-2."""
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(30, 30)))[0]
    matrix = jnp.asarray(basis @ np.diag(np.logspace(-5, 0, 30)) @ basis.T, jnp.float32)
    b = matrix @ jnp.ones(30)
    for method in ("cg", "lu"):
        _, info = solve(lambda v: matrix @ v, b, method=method)
        assert info.converged
        assert info.residual < 2e-6


@pytest.mark.parametrize("method", ["cg", "minres", "gmres", "bicgstab", "lu", "cholesky"])
def test_a_singular_inconsistent_system_is_flagged(method):
    matrix = jnp.diag(jnp.array([1.0, 2.0, 0.0]))
    _, info = solve(lambda v: matrix @ v, jnp.ones(3), method=method)
    assert not info.converged
    assert not info.residual < 0.1


def test_negative_curvature_is_flagged():
    _, info = solve(lambda v: jnp.array([1.0, -1.0]) * v, jnp.ones(2))
    assert not info.converged


@pytest.mark.parametrize("method", ["cg", "lu"])
@pytest.mark.parametrize("entry", [jnp.nan, jnp.inf])
def test_zero_does_not_pass_for_an_answer_to_what_is_not_finite(method, entry):
    b = jnp.array([1.0, entry, 1.0], jnp.float32)
    x, info = solve(lambda v: 2 * v, b, method=method)
    assert jnp.isnan(x).all()
    assert not info.converged


def test_without_a_tolerance_cg_stops_where_nothing_is_gained():
    scales = jnp.linspace(1.0, 10.0, 8, dtype=jnp.float32)
    x, info = solve(lambda v: scales * v, jnp.ones(8, jnp.float32), rtol=0.0, max_steps=500)
    assert info.iterations < 100
    np.testing.assert_allclose(x, 1 / scales, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_small_dtypes_iterate_in_float32(dtype):
    diagonal = jnp.array([1.0, 2.0, 4.0], dtype)
    x, info = jax.jit(lambda b: solve(lambda v: diagonal * v, b))(jnp.ones(3, dtype))
    assert x.dtype == dtype
    assert info.residual.dtype == jnp.float32
    np.testing.assert_allclose(x.astype(jnp.float32), [1.0, 0.5, 0.25], rtol=1e-2)


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (ValueError, "method must be one of", {"method": "qr"}),
        (ValueError, "damping must lie in", {"damping": -1.0}),
        (ValueError, "rtol must lie in", {"rtol": -1.0}),
        (ValueError, "max_steps must be an integer", {"max_steps": 0}),
        (ValueError, "preconditioner is of", {"method": "lu", "preconditioner": lambda v: v}),
        (ValueError, "damping must be positive for nystrom", {"method": "nystrom"}),
        (TypeError, r"preconditioner\(b\) must be like b", {"preconditioner": lambda v: v[:2]}),
        (TypeError, "x0 must be like b", {"x0": jnp.zeros(2)}),
        (TypeError, "x0 must have the structure of b", {"x0": {"a": jnp.zeros(3)}}),
    ],
)
def test_errors_name_the_argument(error, message, options):
    with pytest.raises(error, match=message):
        solve(lambda v: v, jnp.ones(3), **options)


def test_matrices_that_are_not_square_and_integers_are_refused():
    with pytest.raises(TypeError, match="matrix must be square"):
        solve(lambda v: v[:2], jnp.ones(3))
    with pytest.raises(TypeError, match=r"matvec\(b\) must have the structure of b"):
        solve(lambda v: (v, v), jnp.ones(3))
    with pytest.raises(TypeError, match="b must hold floating-point arrays"):
        solve(lambda v: v, jnp.arange(3))
    with pytest.raises(TypeError, match="matvec must be a function: for a matrix A"):
        solve(jnp.eye(3), jnp.ones(3))
    with pytest.raises(ValueError, match="step_size must lie in"):
        Neumann(step_size=-1.0)
