"""Hypergradients without second derivatives in y: one inner step, or none."""

from typing import Any

import optax

from optlab._checks import check_range
from optlab.hypergrad._estimator import Adjoint, Estimator, estimator_from_adjoint

__all__ = ["identity", "one_step"]


def one_step(step_size: Any, *, tolerance: float | None = 1e-2) -> Estimator:
    r"""Differentiates one gradient step from y: the inverse Hessian becomes a multiple of one.

    .. math::
        h = f_x - \alpha\, g_{xy} f_y

    Right where the inner method converges in one step; otherwise a direction of descent at best.

    Args:
        step_size: :math:`\alpha`; may be traced.
        tolerance: see :func:`cg`; with None the estimator makes no product with the Hessian.

    Returns:
        The estimator.

    >>> inner, outer = lambda x, y, b: (y - 3 * x) ** 2, lambda x, y, b: y**2
    >>> estimator = one_step(0.25)
    >>> h, info = estimator.estimate(outer, inner, 1.0, 3.0, None, None)
    >>> float(h), bool(info.failed)
    (9.0, True)

    References:
        J. Bolte, E. Pauwels, S. Vaiter, "One-Step Differentiation of Iterative Algorithms",
        NeurIPS 2023, arXiv:2305.13768; S. W. Fung et al., "JFB: Jacobian-Free Backpropagation for
        Implicit Networks", AAAI 2022, arXiv:2103.12803
    """
    check_range("step_size", step_size, 0.0, float("inf"), closed="()")
    check_range("tolerance", tolerance, 0.0, float("inf"), closed="()")

    def adjoint(at, problem, key, state):
        del problem, key, state
        return Adjoint(optax.tree.scale(step_size, at.outer_y))

    return estimator_from_adjoint(adjoint, tolerance=tolerance)


def identity(*, tolerance: float | None = 1e-2) -> Estimator:
    """Takes the Hessian for the identity: :func:`one_step` with a step size of one.

    Args:
        tolerance: see :func:`cg`.

    Returns:
        The estimator.

    >>> inner, outer = lambda x, y, b: 0.5 * (y - 3 * x) ** 2, lambda x, y, b: y**2
    >>> h, _ = identity().estimate(outer, inner, 1.0, 3.0, None, None)
    >>> float(h)
    18.0

    References:
        J. Luketina, M. Berglund, K. Greff, T. Raiko, "Scalable Gradient-Based Tuning of Continuous
        Regularization Hyperparameters", ICML 2016, arXiv:1511.06727
    """
    return one_step(1.0, tolerance=tolerance)
