"""Derivatives of the solution of an equation, whoever solved it."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import checkify

from optlab import linalg
from optlab._checks import check_floats, check_like, check_range
from optlab._linear_solve import custom_linear_solve
from optlab.base import PyTree
from optlab.implicit.conditions import fixed_point

__all__ = ["custom_fixed_point", "custom_root", "root_jvp", "root_vjp"]

Solve = Callable[[Callable, PyTree], Any]
SMALL = 100  # up to this size a nonsymmetric Jacobian is factored rather than iterated on


def custom_root(
    F: Callable[..., PyTree],
    *,
    symmetric: bool | None = None,
    linear_solver: Any | None = None,
    on_fail: str = "nan",
    tol: Any = 1e-3,
    init_cotangent: Any = "zero",
    has_aux: bool = False,
) -> Callable[[Callable], Callable]:
    r"""Differentiates a solver by the equation that its answer satisfies, not through its steps.

    With :math:`F(x^*(\theta), \theta) = 0` and :math:`A = \partial_x F`,

    .. math:: \mathrm{d} x^* = -A^{-1}\, \partial_\theta F\, \mathrm{d} \theta

    in forward and, transposed, in reverse mode, to any order. The solver is called as it is, on
    values without derivatives: a jitted loop, a host callback, or plain Python on numpy arrays
    where nothing is traced.

    Args:
        F: ``F(x, *args)``, of the structure, shapes and dtypes of x; any condition of
            :mod:`optlab.implicit.conditions`. It may close over traced values, which then get their
            derivatives.
        symmetric: whether A is symmetric positive definite; None asks F, which knows where it is
            made by :func:`~optlab.implicit.conditions.stationarity`.
        linear_solver: ``linear_solver(matvec, b)`` giving x or ``(x, LinearInfo)``, or a ``method``
            of :func:`optlab.linalg.solve`. None: CG where A is symmetric, else LU up to size 100,
            and GMRES above.
        on_fail: of an inner problem that is not solved, or a linear solve that does not converge.
            ``"nan"``: the derivative is NaN (the value stays). ``"ignore"``: nothing. ``"error"``:
            :func:`jax.experimental.checkify.checkify`, which the caller must apply, reports it. As
            jax can raise nothing in the reverse pass, a random right-hand side is solved for
            beforehand: a singular A is reported also where this one derivative would exist.
        tol: the problem counts as solved where the Newton step :math:`A^{-1} F(x)`, the estimate of
            what x lacks, is at most ``tol * |x|``, give or take the root of the rounding unit. A
            residual's size would not tell: on an ill-conditioned problem it is small far away.
        init_cotangent: what the derivative in ``init`` is. ``"zero"``: the solution does not depend
            on it. ``"identity"``: as if the solver moved nothing (first-order meta-learning).
            ``"error"``: differentiating in it raises. Or a linear function from cotangents of the
            solution to cotangents of init.
        has_aux: the solver returns ``(x, aux)``; aux has no derivative.

    Returns:
        A decorator. The decorated ``solver(init, *args, **kwargs)`` returns what it did; F is
        called with the same ``args`` and ``kwargs``. Arguments of any kind pass: only
        floating-point arrays have derivatives, and what is no array stays static.

    Raises:
        ValueError: if ``on_fail`` or ``init_cotangent`` is none of the above.
        TypeError: when called, if F does not take these arguments, or its value is not like x, or x
            holds integers.

    >>> solver = custom_root(lambda x, t: x * x - t)(lambda init, t: jnp.sqrt(t))
    >>> root = lambda t: solver(None, t)
    >>> float(jax.grad(root)(4.0)), float(jax.hessian(root)(4.0))
    (0.25, -0.03125)

    References:
        M. Blondel et al., "Efficient and Modular Implicit Differentiation", NeurIPS 2022,
        arXiv:2105.15183

    Differs from the released code (jaxopt): the default solver does not square the condition
    number; unsolved problems and unconverged solves are reported; forward mode and higher orders
    work.
    """
    if on_fail not in ("nan", "ignore", "error"):
        raise ValueError(f"on_fail must be 'nan', 'ignore' or 'error', got {on_fail!r}.")
    if not callable(init_cotangent) and init_cotangent not in ("zero", "identity", "error"):
        raise ValueError(
            "init_cotangent must be 'zero', 'identity', 'error' or a function, got"
            f" {init_cotangent!r}."
        )
    check_range("tol", tol, 0.0, float("inf"), closed="()")
    solve, attempt = _linear_solver(F, symmetric, linear_solver, on_fail)

    def decorate(solver):
        @functools.wraps(solver)
        def solved(init, *args, **kwargs):
            if init_cotangent == "error":
                init = _refuse_derivative(init)
            answer = solver(*_stop((init, *args)), **_stop(kwargs))
            if has_aux and not (isinstance(answer, tuple) and len(answer) == 2):
                raise TypeError(f"has_aux needs a solver that returns (x, aux), got {answer!r}.")
            x, aux = answer if has_aux else (answer, None)
            x, aux = _stop(jax.tree.map(jnp.asarray, x)), _stop(aux)
            if on_fail != "ignore":
                _check_solution(F, x, *_stop((args, kwargs)))
            residual, arrays = _bind(F, x, args, kwargs)
            x = _attach(residual, solve, attempt, on_fail, tol, x, arrays)
            x = _with_init(x, init, init_cotangent)
            return (x, aux) if has_aux else x

        return solved

    return decorate


def custom_fixed_point(T: Callable[..., PyTree], **options: Any) -> Callable[[Callable], Callable]:
    """Differentiates a solver of ``T(x, *args) = x``: :func:`custom_root` of ``T(x, *args) - x``.

    Args:
        T: ``T(x, *args)``, like x.
        **options: of :func:`custom_root`.

    Returns:
        A decorator, as of :func:`custom_root`.

    >>> halve = custom_fixed_point(lambda x, t: 0.5 * (x + t / x))(lambda init, t: jnp.sqrt(t))
    >>> float(jax.grad(halve, argnums=1)(None, 4.0))
    0.25
    """
    return custom_root(fixed_point(T), **options)


def root_jvp(
    F: Callable[..., PyTree],
    x: PyTree,
    args: tuple,
    tangents: tuple,
    *,
    symmetric: bool | None = None,
    linear_solver: Any | None = None,
    on_fail: str = "nan",
) -> PyTree:
    r"""The tangent of a root: :math:`-A^{-1}\, \partial_\theta F\, \dot\theta`.

    Args:
        F: ``F(x, *args)``, zero at x.
        x: the root.
        args: the other arguments, as a tuple.
        tangents: like ``args``; float0 for those that are not floating-point, as in
            :func:`jax.jvp`.
        symmetric, linear_solver: see :func:`custom_root`.
        on_fail: ``"nan"`` or ``"ignore"``, of a linear solve that does not converge.

    Returns:
        The tangent, like x.

    Raises:
        TypeError: if ``tangents`` has not the structure of ``args``.

    >>> float(root_jvp(lambda x, t: x * x - t, jnp.array(2.0), (4.0,), (1.0,)))
    0.25
    """
    want, got = jax.tree.structure(args), jax.tree.structure(tangents)
    if got != want:
        raise TypeError(f"tangents must have the structure of args, {want}, got {got}.")
    solve, _ = _linear_solver(F, symmetric, linear_solver, on_fail)
    x = jax.tree.map(jnp.asarray, x)
    return _tangent(lambda x, args: F(x, *args), solve, x, args, tangents)


def root_vjp(
    F: Callable[..., PyTree],
    x: PyTree,
    args: tuple,
    cotangent: PyTree,
    *,
    symmetric: bool | None = None,
    linear_solver: Any | None = None,
    on_fail: str = "nan",
) -> tuple:
    r"""The cotangents of the arguments of a root: :math:`-\partial_\theta F^\top A^{-\top} \bar x`.

    Args:
        F: ``F(x, *args)``, zero at x.
        x: the root.
        args: the other arguments, as a tuple.
        cotangent: :math:`\bar x`, like x.
        symmetric, linear_solver, on_fail: see :func:`root_jvp`.

    Returns:
        A cotangent for each of ``args``; float0 for those that are not floating-point.

    Raises:
        TypeError: if ``cotangent`` is not like x.

    >>> float(root_vjp(lambda x, t: x * x - t, jnp.array(2.0), (4.0,), 1.0)[0])
    0.25
    """
    solve, _ = _linear_solver(F, symmetric, linear_solver, on_fail)
    x = jax.tree.map(jnp.asarray, x)
    _, linear = jax.linearize(lambda x: F(x, *args), x)
    transposed = jax.linear_transpose(linear, x)
    if jax.tree.structure(cotangent) == jax.tree.structure(x):
        cotangent = jax.tree.map(lambda c, x: jnp.asarray(c, x.dtype), cotangent, x)
    check_like("cotangent", cotangent, "x", x)
    u = solve(lambda v: transposed(v)[0], cotangent)
    _, pullback = jax.vjp(lambda *args: F(x, *args), *args)
    return pullback(optax.tree.scale(-1, u))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3, 4))
def _attach(residual, solve, attempt, on_fail, tol, x, arrays):
    """Gives x, a constant, the derivative in ``arrays`` of the root that it is."""
    return x


@_attach.defjvp
def _attach_jvp(residual, solve, attempt, on_fail, tol, primals, tangents):
    # The call, not the constant: so the derivative's own derivatives know that x moves.
    x = _attach(residual, solve, attempt, on_fail, tol, *primals)
    _, arrays = primals
    x_dot = _tangent(residual, solve, x, arrays, tangents[1])
    if on_fail == "ignore":
        return x, x_dot
    is_solved = _is_solved(residual, attempt, tol, *_stop((x, arrays)))
    if on_fail == "error":
        checkify.check(
            _is_regular(residual, attempt, *_stop((x, arrays))),
            "A linear solve fails: the Jacobian of F is singular, or not one for linear_solver.",
        )
        checkify.check(is_solved, "The inner problem is not solved: Newton's step is too large.")
        return x, x_dot
    # A product, which is linear in the tangent, so that the reverse pass keeps the NaN.
    flag = jnp.where(is_solved, 1.0, jnp.nan)
    return x, jax.tree.map(lambda t: t * flag.astype(t.dtype), x_dot)


def _tangent(residual, solve, x, arrays, arrays_dot):
    """-A^{-1} dF, linear in ``arrays_dot``."""
    _, right = jax.jvp(lambda a: residual(x, a), (arrays,), (arrays_dot,))
    _, matvec = jax.linearize(lambda x: residual(x, arrays), x)
    return solve(matvec, optax.tree.scale(-1, right))


def _is_solved(residual, attempt, tol, x, arrays):
    """Whether Newton's next step is small beside x."""
    value, matvec = jax.linearize(lambda x: residual(x, arrays), x)
    # The step of an almost solved problem is needed to two digits only.
    step, converged = attempt(matvec, value, rtol=1e-2)
    size = optax.tree.norm(x)
    slack = jnp.sqrt(jnp.finfo(size.dtype).eps)
    return converged & (optax.tree.norm(step) <= tol * size + slack)


def _is_regular(residual, attempt, x, arrays):
    """Whether a system with this Jacobian can be solved; where F is zero, Newton's step is, too."""
    _, matvec = jax.linearize(lambda x: residual(x, arrays), x)
    u, converged = attempt(matvec, optax.tree.random_like(jax.random.key(0), x))
    return converged & jnp.isfinite(optax.tree.norm(u))


def _linear_solver(F, symmetric, linear_solver, on_fail):
    """The solve of the derivative, NaN where it fails, and one that tells whether it did."""
    if symmetric is None:
        symmetric = getattr(F, "symmetric", False)

    def method_for(b):
        if linear_solver is not None:
            return linear_solver
        if symmetric:
            return "cg"
        return "lu" if sum(leaf.size for leaf in jax.tree.leaves(b)) <= SMALL else "gmres"

    def call(matvec, b, **options):
        if callable(linear_solver):
            answer = linear_solver(matvec, b)
        else:
            answer = linalg.solve(matvec, b, method=method_for(b), **options)
        if isinstance(answer, tuple) and isinstance(answer[-1], linalg.LinearInfo):
            return answer[0], answer[1].converged
        return answer, jnp.array(True)

    def unguarded(matvec, b):
        x, converged = call(matvec, b)
        if on_fail == "ignore":
            return x
        return jax.tree.map(lambda leaf: jnp.where(converged, leaf, jnp.nan), x)

    def solve(matvec, b):
        return custom_linear_solve(matvec, b, unguarded, symmetric=symmetric)

    return solve, call


def _is_array(leaf) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic))


def _as_jax(leaf):
    """A jax array, also where vmap hands a numpy array on as it is.

    In a function with a derivative of its own, jit (jax 0.10) then trips over it; the copy, which
    compilation removes, is an operation of jax.
    """
    return jnp.array(leaf, copy=isinstance(leaf, jax.core.Tracer))


def _bind(F, x, args, kwargs):
    """F as a function of x and of the arrays among its arguments and closed-over tracers."""
    leaves, treedef = jax.tree.flatten((args, kwargs))
    mask = [_is_array(leaf) for leaf in leaves]
    arrays = [_as_jax(leaf) for leaf, kept in zip(leaves, mask, strict=True) if kept]
    static = [None if kept else leaf for leaf, kept in zip(leaves, mask, strict=True)]

    def residual(x, arrays):
        rest = iter(arrays)
        merged = [next(rest) if kept else s for s, kept in zip(static, mask, strict=True)]
        args, kwargs = jax.tree.unflatten(treedef, merged)
        return F(x, *args, **kwargs)

    _check_arguments(F, x, args, kwargs)
    hint = ": F must be square; a solver that returns (x, aux) needs has_aux=True"
    check_like("the value of F", jax.eval_shape(residual, x, arrays), "x", x, hint=hint)
    check_floats("the solution x", jax.tree.map(jnp.real, x))  # or complex: some solvers are
    converted, closed_over = jax.closure_convert(residual, x, arrays)
    return (lambda x, every: converted(x, every[0], *every[1])), (arrays, closed_over)


def _check_arguments(F, x, args, kwargs):
    try:
        signature = inspect.signature(getattr(F, "residual", F))
        signature.bind(x, *args, **kwargs)
    except ValueError:  # no signature to ask
        return
    except TypeError as error:
        raise TypeError(
            "F must take (x, *args) where the solver takes (init, *args), but the solver was called"
            f" with {len(args)} args after init: {error}."
        ) from None


def _check_solution(F, x, args, kwargs):
    """Lets a condition look at a solution whose values are known."""
    check = getattr(F, "check", None)
    traced = any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves((x, args, kwargs)))
    if check is not None and not traced:
        check(x, *args, **kwargs)


def _stop(tree):
    """Without derivatives; what is no array is left alone."""
    return jax.tree.map(lambda a: jax.lax.stop_gradient(a) if _is_array(a) else a, tree)


def _with_init(x, init, init_cotangent):
    """Adds the chosen derivative in init, and the value zero, to x."""
    if init_cotangent in ("zero", "error"):
        return x
    change = optax.tree.sub(init, jax.lax.stop_gradient(init))
    if init_cotangent == "identity":
        return optax.tree.add(x, change)
    return optax.tree.add(x, jax.linear_transpose(init_cotangent, x)(change)[0])


@jax.custom_jvp
def _refuse_derivative(init):
    return init


@_refuse_derivative.defjvp
def _refuse_derivative_jvp(primals, tangents):
    raise TypeError(
        "The solution does not depend on init, so its derivative is zero; choose another"
        " init_cotangent if you mean one."
    )
