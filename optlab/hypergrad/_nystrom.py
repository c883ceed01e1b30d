"""Hypergradients with a low-rank approximation of the Hessian, without iterations."""

from optlab._checks import check_count, check_range
from optlab.hypergrad._estimator import Adjoint, Estimator, estimator_from_adjoint, need_key
from optlab.linalg import Nystrom, solve

__all__ = ["nystrom"]


def nystrom(rank: int, damping: float = 0.1, *, tolerance: float | None = 1e-2) -> Estimator:
    r"""Inverts a Nystrom approximation of the Hessian by the Woodbury identity.

    .. math::
        v = (C^\top M^{-1} C + \rho I)^{-1} f_y = \frac{f_y}{\rho}
            - \frac{1}{\rho^2} C^\top \Big(M + \frac{1}{\rho} C C^\top\Big)^{-1} C f_y

    with C some random rows of :math:`g_{yy}`, and M their columns of the same numbers. The r
    products are made at once, so that there is no iteration; in exchange the damping is a bias, and
    Hessians whose spectrum does not fall off are badly approximated. The key draws the rows.

    Args:
        rank: r, how many rows; at most the size of y is used.
        damping: :math:`\rho > 0`.
        tolerance: relative error above which ``failed`` is set; None saves the two products of the
            check, and ``failed`` is then always set.

    Returns:
        The estimator.

    >>> import jax
    >>> inner, outer = lambda x, y, b: (y - 3 * x) ** 2, lambda x, y, b: y**2
    >>> h, info = nystrom(1, damping=1e-3).estimate(
    ...     outer, inner, 1.0, 3.0, None, None, key=jax.random.key(0)
    ... )
    >>> round(float(h), 1), int(info.products)
    (18.0, 3)

    References:
        R. Hataya, M. Yamada, "Nystrom Method for Accurate and Scalable Implicit Differentiation",
        AISTATS 2023, arXiv:2302.09726

    Differs from the paper: the small system is solved by a pseudo-inverse, which drops directions
    that carry nothing but rounding.
    """
    check_count("rank", rank, 1)
    check_range("damping", damping, 0.0, float("inf"), closed="()")
    check_range("tolerance", tolerance, 0.0, float("inf"), closed="()")

    def adjoint(at, problem, key, state):
        del problem, state
        key = need_key(key, "nystrom")
        v, info = solve(at.hessian, at.outer_y, method=Nystrom(rank), damping=damping, key=key)
        return Adjoint(v, info.iterations)

    return estimator_from_adjoint(adjoint, tolerance=tolerance)
