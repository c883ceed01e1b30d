"""Hypergradients by the implicit function theorem, with a linear solve."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from optlab._arithmetic import wide
from optlab._checks import check_count, check_range
from optlab.base import PyTree
from optlab.hypergrad._estimator import Adjoint, Estimator, estimator_from_adjoint
from optlab.linalg import Gmres, solve

__all__ = ["SolutionState", "cg", "exact", "gmres"]


class SolutionState(NamedTuple):
    """The last solution of the linear system, from which the next solve starts."""

    v: PyTree  # like y


def _init(x: PyTree, y: PyTree) -> SolutionState:
    del x
    return SolutionState(optax.tree.zeros_like(y))


def _solver(method, max_steps, rtol, damping, preconditioner, tolerance) -> Estimator:
    if max_steps is not None:
        check_count("max_steps", max_steps, 1)
    check_range("damping", damping, 0.0, float("inf"))
    check_range("rtol", rtol, 0.0, float("inf"))
    check_range("tolerance", tolerance, 0.0, float("inf"), closed="()")

    def adjoint(at, problem, key, state):
        del key
        _, _, x, y, _, inner_batch = problem
        v, info = solve(
            at.hessian,
            at.outer_y,
            method=method,
            x0=None if state is None else state.v,
            max_steps=max_steps,
            rtol=rtol,
            damping=damping,
            preconditioner=None if preconditioner is None else preconditioner(x, y, inner_batch),
        )
        # One more product for the residual of the answer, and one for that of a warm start.
        products = info.iterations + (1 if state is None else 2)
        undamped = isinstance(damping, (int, float)) and damping == 0
        residual = info.residual if undamped else None
        return Adjoint(v, products, SolutionState(v), residual=residual)

    return estimator_from_adjoint(adjoint, tolerance=tolerance, init=_init)


def cg(
    *,
    max_steps: int | None = None,
    rtol: float | None = None,
    damping: float = 0.0,
    preconditioner: Callable | None = None,
    tolerance: float | None = 1e-2,
) -> Estimator:
    r"""Solves for the adjoint by conjugate gradients: the estimator to begin with.

    .. math::
        h = f_x - g_{xy} v, \qquad (g_{yy} + \delta I)\, v = f_y

    at y, which should be near the inner solution :math:`y^*(x)`. The system is solved as it is,
    never by its normal equations, which square the condition number: where it is 5e4, libraries
    whose default they are stop, satisfied, at a hypergradient that is 99 % wrong.

    With a state, a solve starts from the last solution.

    Args:
        max_steps: bound of the steps of a solve; None is ten times the size of y, at most 1,000.
        rtol: relative residual at which a solve stops; None is the default of
            :func:`optlab.linalg.solve`, 1e-7 in float32.
        damping: :math:`\delta \ge 0`. The check is made without it.
        preconditioner: ``(x, y, inner_batch) -> (r -> approximately the inverse Hessian times r)``.
        tolerance: relative error above which ``failed`` is set. The check costs nothing, or two
            products where there is damping; with None ``failed`` is always set.

    Returns:
        The estimator.

    >>> estimator = cg()
    >>> inner, outer = lambda x, y, b: (y - 3 * x) ** 2, lambda x, y, b: y**2
    >>> h, info = estimator.estimate(outer, inner, 1.0, 3.0, None, None)
    >>> float(h), bool(info.failed)
    (18.0, False)

    References:
        F. Pedregosa, "Hyperparameter Optimization with Approximate Gradient", ICML 2016,
        arXiv:1602.02355; A. Rajeswaran, C. Finn, S. Kakade, S. Levine, "Meta-Learning with Implicit
        Gradients", NeurIPS 2019, arXiv:1909.04630

    Differs from the papers: the residual and the error are measured.
    """
    return _solver("cg", max_steps, rtol, damping, preconditioner, tolerance)


def gmres(
    *,
    max_steps: int | None = None,
    restart: int = 50,
    rtol: float | None = None,
    damping: float = 0.0,
    tolerance: float | None = 1e-2,
) -> Estimator:
    """Solves for the adjoint by GMRES: see :func:`cg`.

    For Hessians whose products are not quite symmetric, such as those of an inner objective with
    ``stop_gradient`` or with a custom derivative. It keeps ``restart`` vectors like y.

    Args:
        max_steps, rtol, damping, tolerance: see :func:`cg`.
        restart: steps until the basis is dropped.

    Returns:
        The estimator.

    >>> inner, outer = lambda x, y, b: (y - 3 * x) ** 2, lambda x, y, b: y**2
    >>> h, _ = gmres().estimate(outer, inner, 1.0, 3.0, None, None)
    >>> round(float(h), 4)
    18.0
    """
    return _solver(Gmres(restart), max_steps, rtol, damping, None, tolerance)


def exact(*, tolerance: float | None = 1e-2) -> Estimator:
    """Forms the Hessian and factors it: for tests, and for inner problems of few variables.

    Args:
        tolerance: see :func:`cg`.

    Returns:
        The estimator; the Hessian takes n products and n^2 numbers.

    >>> inner, outer = lambda x, y, b: (y - 3 * x) ** 2, lambda x, y, b: y**2
    >>> h, _ = exact().estimate(outer, inner, 1.0, 3.0, None, None)
    >>> float(h)
    18.0
    """

    check_range("tolerance", tolerance, 0.0, float("inf"), closed="()")

    def adjoint(at, problem, key, state):
        del problem, key, state
        b, unravel = ravel_pytree(at.outer_y)
        rows = jax.vmap(lambda e: ravel_pytree(at.hessian(unravel(e)))[0])
        # No factorization knows numbers below 32 bits.
        hessian = wide(rows(jnp.eye(b.size, dtype=b.dtype)))
        # The residual of a dense solve is rounding, which says nothing of the Hessian's signs.
        convex = jnp.isfinite(jnp.linalg.cholesky(hessian)).all()
        v = jnp.linalg.solve(hessian, wide(b))
        return Adjoint(unravel(v.astype(b.dtype)), b.size, convex=convex)

    return estimator_from_adjoint(adjoint, tolerance=tolerance)
