"""Hypergradients by a finite difference in place of the cross derivative, as in DARTS."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optlab._checks import check_range
from optlab.hypergrad._errors import ratio
from optlab.hypergrad._estimator import Adjoint, Estimator, estimator_from_adjoint

__all__ = ["finite_difference"]


def finite_difference(
    step_size: Any, *, radius: float = 0.01, tolerance: float | None = 1e-2
) -> Estimator:
    r"""Differentiates one gradient step, with two gradients in place of second derivatives.

    .. math::
        h = f_x - \alpha \frac{g_x(x, y + \epsilon f_y) - g_x(x, y - \epsilon f_y)}{2 \epsilon},
        \qquad \epsilon = \frac{R}{\|f_y\|}

    It is :func:`one_step` up to :math:`O(R^2)`, and shares its bias.

    Args:
        step_size: :math:`\alpha`, of the inner step; may be traced.
        radius: R > 0, how far y is moved.
        tolerance: see :func:`cg`; with None the estimator takes first derivatives only.

    Returns:
        The estimator.

    >>> inner, outer = lambda x, y, b: (y - 3 * x) ** 2, lambda x, y, b: y**2
    >>> estimator = finite_difference(0.25)
    >>> h, _ = estimator.estimate(outer, inner, 1.0, 3.0, None, None)
    >>> round(float(h), 2)
    9.0

    References:
        H. Liu, K. Simonyan, Y. Yang, "DARTS: Differentiable Architecture Search", ICLR 2019,
        arXiv:1806.09055

    Differs from the paper: y is where the outer gradient is taken; the paper takes it after the
    step, which is one inner step from here.
    """
    check_range("step_size", step_size, 0.0, float("inf"), closed="()")
    check_range("radius", radius, 0.0, float("inf"), closed="()")
    check_range("tolerance", tolerance, 0.0, float("inf"), closed="()")

    def adjoint(at, problem, key, state):
        del key, state
        _, inner, x, y, _, inner_batch = problem
        epsilon = ratio(jnp.asarray(radius, jnp.result_type(float)), optax.tree.norm(at.outer_y))
        epsilon = jnp.where(jnp.isfinite(epsilon), epsilon, 1.0)  # f_y = 0: any will do

        def gradient(sign):
            moved = jax.tree.map(
                lambda leaf, b: leaf + (sign * epsilon).astype(leaf.dtype) * b, y, at.outer_y
            )
            return jax.grad(inner)(x, moved, inner_batch)

        half = optax.tree.sub(gradient(1), gradient(-1))
        cross = jax.tree.map(lambda d: (step_size / (2 * epsilon)).astype(d.dtype) * d, half)
        return Adjoint(optax.tree.scale(step_size, at.outer_y), cross=cross)

    return estimator_from_adjoint(adjoint, tolerance=tolerance)
