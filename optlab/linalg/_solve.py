"""Linear systems given by a product, on pytrees, with an honest account of the answer."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import wide
from optlab._checks import check_count, check_floats, check_like, check_range
from optlab._linear_solve import custom_linear_solve
from optlab.base import PyTree, Scalar
from optlab.linalg import _solve_krylov as krylov
from optlab.linalg._solve_lineax import is_lineax, lineax_method, run_lineax, tags_of
from optlab.linalg._solve_nystrom import nystrom_inverse, nystrom_preconditioner

__all__ = ["Gmres", "LinearInfo", "Neumann", "Nystrom", "NystromPcg", "solve"]

Map = Callable[[PyTree], PyTree]


class LinearInfo(NamedTuple):
    """What :func:`solve` knows about its answer; measured, never differentiated."""

    residual: jax.Array  # |b - A x| / |b| of the answer given, shape=(); zero where b is
    iterations: jax.Array  # shape=(), dtype=int32: steps; of a direct method its products with A
    converged: jax.Array  # shape=(), dtype=bool; False where the residual is NaN


@dataclasses.dataclass(frozen=True)
class Gmres:
    """GMRES for any square matrix: lineax's, restarted every ``restart`` steps."""

    restart: int = 50

    def __post_init__(self):
        check_count("restart", self.restart, 1)


@dataclasses.dataclass(frozen=True)
class Neumann:
    """The series ``step_size * sum_k (I - step_size * A)^k b`` of at most ``max_steps`` terms.

    It converges where ``|I - step_size * A| < 1``: for a positive definite A, where ``step_size``
    is below twice the inverse of its largest eigenvalue.
    """

    step_size: Any = 1.0  # positive; an array too

    def __post_init__(self):
        check_range("step_size", self.step_size, 0.0, float("inf"), closed="()")


@dataclasses.dataclass(frozen=True)
class Nystrom:
    """No iteration: A is replaced by its Nystrom approximation from ``rank`` random rows.

    Needs a positive ``damping``, and the ``key`` that draws the rows.
    """

    rank: int = 10

    def __post_init__(self):
        check_count("rank", self.rank, 1)


@dataclasses.dataclass(frozen=True)
class NystromPcg:
    """Conjugate gradients, preconditioned by a randomized Nystrom approximation of A."""

    rank: int = 10

    def __post_init__(self):
        check_count("rank", self.rank, 1)


METHODS = {
    "cg": None,
    "minres": None,
    "gmres": Gmres(),
    "bicgstab": None,
    "lu": None,
    "cholesky": None,
    "normal_cg": None,
    "neumann": Neumann(),
    "nystrom": Nystrom(),
    "nystrom_pcg": NystromPcg(),
}
SYMMETRIC = ("cg", "minres", "cholesky", "nystrom", "nystrom_pcg")
KNOWS_NORM = ("cg", "minres", "nystrom_pcg")  # from the curvatures that they meet
PRECONDITIONED = ("cg", "gmres", "bicgstab", "lineax")
# By the bytes of a number: where products of that precision have nothing more to give.
DEFAULT_RTOL = {8: 1e-10, 4: 1e-7}
NAMES = {Gmres: "gmres", Neumann: "neumann", Nystrom: "nystrom", NystromPcg: "nystrom_pcg"}


def solve(
    matvec: Map,
    b: PyTree,
    *,
    method: Any = "cg",
    x0: PyTree | None = None,
    damping: Any = 0.0,
    preconditioner: Map | None = None,
    rtol: Any | None = None,
    atol: Any = 0.0,
    max_steps: int | None = None,
    key: jax.Array | None = None,
) -> tuple[PyTree, LinearInfo]:
    r"""Solves :math:`(A + \lambda I) x = b`, where A is given by its products.

    .. math::
        \text{stop where } \|b - (A + \lambda I) x\|_2 \le
        \max(\mathtt{rtol}\, \|b\|_2, \mathtt{atol})

    ============= =========================== ===================================================
    method        for A                       notes
    ============= =========================== ===================================================
    cg            positive definite           stops at non-positive curvature
    minres        symmetric                   indefinite and singular consistent ones too
    gmres         any                         lineax; restarts: :class:`Gmres`
    bicgstab      any                         two products a step, no basis to keep
    lu            any                         lineax; n products, n^2 memory
    cholesky      positive definite           lineax; n products, n^2 memory
    normal_cg     any                         CG on A^T A: squares the condition number
    neumann       :math:`|I - sA| < 1`        a series: :class:`Neumann`
    nystrom       positive semi-definite      an approximation, flagged as one: :class:`Nystrom`
    nystrom_pcg   positive definite           :class:`NystromPcg`
    ============= =========================== ===================================================

    The answer is differentiable in b and in whatever ``matvec`` closes over, in both modes and to
    any order, by the rule of an exact solve (:func:`jax.lax.custom_linear_solve`): the derivative
    solves with the same method, whose own steps are not differentiated. ``x0``,
    ``preconditioner`` and the account have a zero derivative.

    Nothing is raised for a system that cannot be solved: ``converged`` is then False, and x is what
    the method had (NaN or inf from a direct solver on a singular matrix). Leaves below 32 bits are
    iterated in float32.

    Args:
        matvec: the linear map :math:`v \mapsto A v`, from trees like ``b`` to trees like ``b``.
        b: right-hand side, a pytree of floating-point arrays.
        method: a name of the table; an instance of :class:`Gmres`, :class:`Neumann`,
            :class:`Nystrom` or :class:`NystromPcg`; or any solver of lineax.
        x0: where to start, like ``b``; None is zero, and so is a start whose residual is not
            finite. A direct method corrects it.
        damping: :math:`\lambda \ge 0`.
        preconditioner: approximates :math:`v \mapsto A^{-1} v`, symmetric positive definite;
            of cg, gmres, bicgstab and lineax's solvers.
        rtol: relative tolerance; None is 1e-10 in float64, 1e-7 in float32, where the components of
            small eigenvalues are the last to settle, and 1e-3 below.
        atol: absolute tolerance.
        max_steps: bound of the steps; None is ten times the size of ``b``, at most 1,000.
        key: draws the rows or the sketch of the Nystrom methods; None draws the same each time.

    Returns:
        x, like ``b``, and the account of it. ``converged`` says that the residual is within the
        tolerance, or as small as rounding lets it be: ten units of rounding of :math:`\|A\| \|x\|`,
        and below the root of the unit relative to b.
        An inexact method (neumann, nystrom) is judged by the same test.

    Raises:
        TypeError: if ``b`` holds anything but floating-point arrays, or the structures, shapes or
            dtypes of ``matvec(b)`` or ``x0`` differ from those of ``b``.
        ValueError: if ``method`` is unknown, a number is out of range, or an option is given to a
            method that does not take it.

    >>> x, info = solve(lambda v: {"w": 4.0 * v["w"]}, {"w": jnp.array([2.0, 8.0])})
    >>> x["w"].tolist(), float(info.residual), bool(info.converged)
    ([0.5, 2.0], 0.0, True)

    References:
        M. Hestenes, E. Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems",
        J. Res. NBS 1952; C. Paige, M. Saunders, "Solution of Sparse Indefinite Systems of Linear
        Equations", SIAM J. Numer. Anal. 1975; J. Lorraine, P. Vicol, D. Duvenaud, "Optimizing
        Millions of Hyperparameters by Implicit Differentiation", AISTATS 2020, arXiv:1911.02590
        (neumann); R. Hataya, M. Yamada, "Nystrom Method for Accurate and Scalable Implicit
        Differentiation", AISTATS 2023, arXiv:2302.09726 (nystrom); Z. Frangella, J. Tropp,
        M. Udell, "Randomized Nystrom Preconditioning", SIAM J. Matrix Anal. 2023, arXiv:2110.02820

    Differs from the papers: none of them states when rounding, not the method, ends the progress.
    """
    name, config = _resolve(method)
    check_range("damping", damping, 0.0, float("inf"))
    check_range("rtol", rtol, 0.0, float("inf"))
    check_range("atol", atol, 0.0, float("inf"))
    if max_steps is not None:
        check_count("max_steps", max_steps, 1)
    if preconditioner is not None and name not in PRECONDITIONED:
        raise ValueError(f"preconditioner is of {', '.join(PRECONDITIONED)}, not of {name}.")
    undamped = isinstance(damping, (int, float)) and damping == 0
    if name == "nystrom" and undamped:
        raise ValueError("damping must be positive for nystrom: its approximation is singular.")
    if not callable(matvec):
        raise TypeError("matvec must be a function: for a matrix A, lambda v: A @ v.")
    check_floats("b", b)
    hint = ": the matrix must be square"
    check_like("matvec(b)", jax.eval_shape(matvec, b), "b", b, hint=hint)
    if x0 is not None:
        check_like("x0", x0, "b", b)
    if preconditioner is not None:
        preconditioned = jax.eval_shape(lambda b: wide(preconditioner(b)), b)
        check_like("preconditioner(b)", preconditioned, "b", jax.eval_shape(wide, b))

    size = sum(leaf.size for leaf in jax.tree.leaves(b))
    narrowest = min((leaf.dtype.itemsize for leaf in jax.tree.leaves(b)), default=4)
    default_rtol = DEFAULT_RTOL.get(narrowest, 1e-3)

    # Below, vectors are at least float32; only the caller's functions see the dtypes of b.
    def widened(function):
        return lambda v: wide(function(optax.tree.cast_like(v, b)))

    def damped(v):
        av = widened(matvec)(v)
        return av if undamped else optax.tree.add_scale(av, damping, v)

    steps = min(10 * size, 1000) if max_steps is None else max_steps
    run = functools.partial(
        _run,
        name=name,
        config=config,
        damping=damping,
        preconditioner=None if preconditioner is None else widened(preconditioner),
        key=jax.random.key(0) if key is None else key,
    )

    def solve_wide(product, b):
        scale = _safe_scale(b)
        b = _times(1 / scale, b)
        norm = optax.tree.norm(b)
        limit = default_rtol if rtol is None else rtol
        threshold = jnp.maximum(limit * norm, atol / scale).astype(norm.dtype)
        start = None if x0 is None else _times(1 / scale, wide(x0))
        once = name == "nystrom"  # repeated, it would be another method
        x, error, bound, steps_done = _refined(run, product, b, start, threshold, steps, once)
        if name not in KNOWS_NORM:
            bound = _power_step(product, b)
        rounding = 10 * jnp.finfo(norm.dtype).eps * bound * optax.tree.norm(x)
        residual = jnp.where(norm > 0, error / jnp.where(norm > 0, norm, 1), error)
        # The x of a singular system grows, and with it what rounding would explain.
        rounding = jnp.minimum(rounding, jnp.sqrt(jnp.finfo(norm.dtype).eps) * norm)
        converged = jnp.isfinite(norm) & (error <= jnp.maximum(threshold, rounding))
        # Else no loop would begin, and zero pass for an answer.
        x = _times(jnp.where(jnp.isfinite(norm), scale, jnp.nan), x)
        return x, residual, steps_done, converged

    if size == 0:
        return b, LinearInfo(jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.array(True))

    # The account rides along as three more unknowns of an identity block. As the `aux` that
    # custom_linear_solve offers, it would be batched under every vmap, which jacfwd refuses.
    def solve_pair(product, pair):
        vector, account = pair
        x, *found = solve_wide(lambda v: product((v, account))[0], vector)
        return x, jnp.stack([jnp.asarray(a, account.dtype) for a in found])

    right = (wide(b), jnp.zeros(3))
    x, account = custom_linear_solve(
        lambda pair: (damped(pair[0]), pair[1]), right, solve_pair, symmetric=name in SYMMETRIC
    )
    residual, iterations, converged = jax.lax.stop_gradient(account)
    info = LinearInfo(residual, iterations.astype(jnp.int32), converged == 1)
    return optax.tree.cast_like(x, b), info


def _times(factor: Scalar, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), tree)


def _safe_scale(b: PyTree) -> Scalar:
    """One, or the size of a vector whose square is beyond the range of its dtype.

    Zero would else pass for the answer: in float32 the norm of 1e-20 is zero.
    """
    largest = functools.reduce(
        jnp.maximum, [jnp.max(jnp.abs(leaf), initial=0.0) for leaf in jax.tree.leaves(b)]
    )
    info = jnp.finfo(largest.dtype)
    is_small = (largest > 0) & (largest < info.tiny**0.25)
    is_large = (largest > info.max**0.25) & jnp.isfinite(largest)
    # The reciprocal of the very largest is flushed to zero, that of a subnormal one is infinite.
    return jnp.where(is_small | is_large, jnp.clip(largest, info.tiny, info.max / 256), 1.0)


def _refined(run, product, b, x0, threshold, max_steps, once):
    """Solves, and solves again for the residual while it is too large and shrinks.

    In exact arithmetic one round is all. In float32 the residual that a method believes in drifts
    from the true one, and a direct solver's is large on an ill-conditioned matrix.
    """

    class State(NamedTuple):
        x: PyTree
        r: PyTree
        error: Scalar  # norm of r
        norm: Scalar
        steps: jax.Array
        round: jax.Array
        gains: jax.Array

    def unfinished(s):
        more = (s.round == 0) | (s.gains & (not once))
        return more & (s.error > threshold) & (s.steps < max_steps)

    def correct(s):
        done = run(product, s.r, threshold, max_steps - s.steps)
        x = optax.tree.add(s.x, done.x)
        r = optax.tree.sub(b, product(x))
        error = optax.tree.norm(r)
        first = s.round == 0
        keep = first | (error < s.error)
        x, best = (
            jax.tree.map(lambda new, old: jnp.where(keep, new, old), *pair)
            for pair in ((x, s.x), (error, s.error))
        )
        gains = first | (error < 0.5 * s.error)  # without them, r is of no more use
        norm = jnp.maximum(s.norm, done.norm)
        return State(x, r, best, norm, s.steps + done.steps, s.round + 1, gains)

    x, r = optax.tree.zeros_like(b), b
    if x0 is not None:
        # Beside the smallest b, a warm start is beyond the range of numbers: zero is nearer.
        first = optax.tree.sub(b, product(x0))
        near = jnp.isfinite(optax.tree.norm(first))
        x, r = (
            jax.tree.map(lambda new, old: jnp.where(near, new, old), *pair)
            for pair in ((x0, x), (first, r))
        )
    error, zero = optax.tree.norm(r), jnp.zeros((), jnp.int32)
    start = State(x, r, error, jnp.zeros_like(error), zero, zero, jnp.array(True))
    end = jax.lax.while_loop(unfinished, correct, start)
    return end.x, end.error, end.norm, end.steps


def _power_step(product, b) -> Scalar:
    """A lower bound of the norm of A: one step of the power method from b."""
    ab = product(b)
    norm = optax.tree.norm(ab)
    return optax.tree.norm(product(ab)) / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)


def _run(product, b, threshold, max_steps, *, name, config, damping, preconditioner, key):
    """Solves once, from zero, by the method of a name."""
    size = sum(leaf.size for leaf in jax.tree.leaves(b))
    if name == "cg":
        return krylov.conjugate_gradient(product, b, threshold, max_steps, preconditioner)
    if name == "bicgstab":
        return krylov.biconjugate_gradient(product, b, threshold, max_steps, preconditioner)
    if name == "minres":
        return krylov.minimum_residual(product, b, threshold, max_steps)
    if name == "neumann":
        return krylov.neumann_series(product, b, threshold, max_steps, config.step_size)
    if name == "normal_cg":
        transposed = jax.linear_transpose(product, b)
        return _normal_cg(product, lambda v: transposed(v)[0], b, threshold, max_steps)
    if name in ("nystrom", "nystrom_pcg"):
        rank = min(config.rank, size)

        def undamped(v):
            return optax.tree.add_scale(product(v), -damping, v)

        if name == "nystrom":
            return krylov.run_of(nystrom_inverse(undamped, b, damping, rank, key), rank)
        preconditioner = nystrom_preconditioner(undamped, b, damping, rank, key)
        return krylov.conjugate_gradient(product, b, threshold, max_steps, preconditioner)
    if name == "lineax":
        return run_lineax(
            lambda _: (config, tags_of(config)), product, b, threshold, preconditioner
        )
    restart = min(config.restart, size) if name == "gmres" else 0
    return run_lineax(
        lambda tolerance: lineax_method(name, tolerance, max_steps, restart),
        product,
        b,
        threshold,
        preconditioner,
    )


def _normal_cg(product, transposed, b, threshold, max_steps):
    """CG on the normal equations, until their residual is as small beside its start as ours."""
    right = transposed(b)
    norm = optax.tree.norm(b)
    relative = threshold / jnp.where(norm > 0, norm, 1)
    run = krylov.conjugate_gradient(
        lambda v: transposed(product(v)), right, relative * optax.tree.norm(right), max_steps, None
    )
    return run._replace(norm=jnp.zeros_like(norm))


def _resolve(method) -> tuple[str, Any]:
    """The name of a method, and its configuration: a lineax solver, a dataclass or None."""
    if is_lineax(method):
        return "lineax", method
    if type(method) in NAMES:
        return NAMES[type(method)], method
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(
            f"method must be one of {', '.join(METHODS)}, or a solver of lineax, got {method!r}."
        )
    return method, METHODS[method]
