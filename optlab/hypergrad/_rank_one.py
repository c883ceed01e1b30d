"""Hypergradients with a Gauss-Newton matrix of rank one for the Hessian."""

import optax

from optlab._checks import check_range
from optlab.hypergrad._errors import ratio
from optlab.hypergrad._estimator import Adjoint, Estimator, estimator_from_adjoint

__all__ = ["rank_one"]


def rank_one(*, tolerance: float | None = 1e-2) -> Estimator:
    r"""Takes the outer product of the inner gradient for the Hessian.

    .. math::
        v = \frac{f_y^\top g_y}{\|g_y\|^2}\, g_y, \qquad h = f_x - g_{xy} v

    For a y that is still on its way: at a solution the inner gradient vanishes, and with it the
    only direction that is seen. At a gradient of zero v is zero.

    Args:
        tolerance: relative error above which ``failed`` is set; None saves the two products of the
            check, and ``failed`` is then always set.

    Returns:
        The estimator.

    >>> inner, outer = lambda x, y, b: 0.5 * (y - 3 * x) ** 2, lambda x, y, b: y**2
    >>> h, _ = rank_one().estimate(outer, inner, 1.0, 2.0, None, None)
    >>> float(h)
    12.0

    References:
        The operation IGA (implicit gradient approximation) of Y. Liu et al., "BOAT: A Compositional
        Operation Toolbox for Gradient-based Bi-Level Optimization", github.com/callous-youth/BOAT
    """
    check_range("tolerance", tolerance, 0.0, float("inf"), closed="()")

    def adjoint(at, problem, key, state):
        del problem, key, state
        scale = ratio(
            optax.tree.vdot(at.outer_y, at.inner_y), optax.tree.vdot(at.inner_y, at.inner_y)
        )
        return Adjoint(optax.tree.scale(scale, at.inner_y))

    return estimator_from_adjoint(adjoint, tolerance=tolerance)
