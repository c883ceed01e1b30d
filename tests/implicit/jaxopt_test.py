"""The page for those who come from jaxopt: complete, true, and in agreement with jaxopt itself."""

import functools
import importlib
import pathlib
import re
import warnings

import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optax
import pytest

from optlab import linalg
from optlab.implicit import projections, prox

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "jaxopt.md"

# What jaxopt 0.8.5, its last release, exports.
EXPORTS = {
    "implicit_diff": "custom_fixed_point custom_root root_jvp root_vjp",
    "linear_solve": "solve_bicgstab solve_cg solve_cholesky solve_gmres solve_inv"
    " solve_iterative_refinement solve_lu solve_normal_cg solve_qr",
    "prox": "make_prox_from_projection prox_elastic_net prox_group_lasso prox_lasso"
    " prox_non_negative_lasso prox_non_negative_ridge prox_none prox_ridge",
    "projection": "kl_projection_birkhoff kl_projection_transport projection_affine_set"
    " projection_birkhoff projection_box projection_box_section projection_halfspace"
    " projection_hypercube projection_hyperplane projection_l1_ball projection_l1_sphere"
    " projection_l2_ball projection_l2_sphere projection_linf_ball projection_non_negative"
    " projection_polyhedron projection_simplex projection_sparse_simplex projection_transport",
}


def _jaxopt(module):
    pytest.importorskip("jaxopt", reason="jaxopt is a peer, not a requirement")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its end
        return importlib.import_module(f"jaxopt.{module}")


@functools.cache
def _rows(section):
    """The cells of a section's table, each as its code spans."""
    text = PAGE.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [[re.findall(r"`([^`]+)`", cell) for cell in row] for row in rows]


@pytest.mark.parametrize("module", EXPORTS)
def test_every_name_has_a_row(module):
    named = {re.split(r"\W", span)[0] for row in _rows(module) for span in row[0]}
    assert not set(EXPORTS[module].split()) - named


@pytest.mark.parametrize("module", EXPORTS)
def test_the_names_are_all_that_jaxopt_exports(module):
    exported = vars(_jaxopt(module))
    names = {n for n, value in exported.items() if callable(value) and not n.startswith("_")}
    assert names == set(EXPORTS[module].split())


def _exists(name):
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ImportError:
            continue
        return functools.reduce(getattr, parts[split:], found)
    raise ImportError(name)


@pytest.mark.parametrize("module", EXPORTS)
def test_what_is_offered_instead_exists(module):
    spans = [span for row in _rows(module) for span in row[1]]
    for span in spans:
        for name in re.findall(r"\b(?:optlab|optax|jax)(?:\.\w+)+", span):
            assert callable(_exists(name)) or name.count(".") == 1, name
    if module == "prox":
        for span in spans:
            name = re.split(r"\W", span)[0]
            assert name == "lambda" or callable(getattr(prox, name)), span
    if module == "linear_solve":
        for method in (span.strip('"') for span in spans if span.startswith('"')):
            linalg.solve(lambda v: 2 * v, jnp.ones(2), method=method)


RNG = np.random.default_rng(0)
V, W, M = RNG.normal(size=5), RNG.uniform(1, 2, 5), RNG.normal(size=(4, 3))
A, INSIDE = RNG.normal(size=(2, 5)), RNG.uniform(0.2, 0.8, 5)
ROWS, COLS = np.full(4, 0.75), np.array([1.5, 1.0, 0.5])

# What jaxopt takes after the point, and ours. Its polyhedron takes minutes to compile.
PAIRS = {
    "projection_affine_set": (
        ((A, A @ INSIDE),),
        lambda v: projections.affine_set(v, A, A @ INSIDE),
    ),
    "projection_box_section": (
        ((np.zeros(5), np.ones(5), W, 3.0),),
        lambda v: projections.box_section(v, 0.0, 1.0, W, 3.0),
    ),
    "projection_sparse_simplex": ((2,), lambda v: projections.sparse_simplex(v, 2)),
    "projection_transport": (((ROWS, COLS),), lambda v: projections.transport(v, ROWS, COLS)),
    "projection_birkhoff": ((), projections.birkhoff),
    "kl_projection_transport": (((ROWS, COLS),), lambda v: projections.kl_transport(v, ROWS, COLS)),
    "kl_projection_birkhoff": ((), projections.kl_birkhoff),
    "projection_simplex": ((2.0,), lambda v: optax.projections.projection_simplex(v, 2.0)),
    "prox_none": ((None,), lambda v: v),
    "prox_lasso": ((0.7,), lambda v: prox.lasso(v, 1.1, weight=0.7)),
    "prox_non_negative_lasso": ((0.7,), lambda v: prox.non_negative_lasso(v, 1.1, weight=0.7)),
    "prox_elastic_net": (
        ((0.7, 0.4),),
        lambda v: prox.elastic_net(v, 1.1, weight=0.7, square_weight=0.7 * 0.4),
    ),
    "prox_group_lasso": ((0.7,), lambda v: prox.group_lasso(v, 1.1, weight=0.7)),
    "prox_ridge": ((0.7,), lambda v: prox.ridge(v, 1.1, weight=0.7)),
    "prox_non_negative_ridge": ((0.7,), lambda v: prox.non_negative_ridge(v, 1.1, weight=0.7)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_values_agree(name):
    theirs = getattr(_jaxopt("prox" if name.startswith("prox") else "projection"), name)
    arguments, ours = PAIRS[name]
    v = M if name.endswith("transport") else M[:3] if name.endswith("birkhoff") else V
    with jax.enable_x64(True):
        got, v = jax.jit(ours)(v), jnp.asarray(v)
        scaling = (1.1,) if name.startswith("prox") else ()
        with jax.numpy_rank_promotion("allow"):
            want = theirs(v, *arguments, *scaling)
        # jaxopt's own solvers stop at 1e-3 to 1e-6.
        np.testing.assert_allclose(got, want, atol=2e-3)


@pytest.mark.parametrize("method", ["cg", "normal_cg", "gmres", "bicgstab", "lu", "cholesky", "qr"])
def test_linear_solves_agree(method):
    theirs = getattr(_jaxopt("linear_solve"), f"solve_{method}")
    with jax.enable_x64(True):
        matrix = jnp.asarray(A.T @ A + np.eye(5))
        matvec = lambda v: matrix @ v  # noqa: E731
        ours = lineax.QR() if method == "qr" else method
        got, info = linalg.solve(matvec, jnp.asarray(V), method=ours)
        assert info.converged
        np.testing.assert_allclose(got, theirs(matvec, jnp.asarray(V)), atol=1e-4)
