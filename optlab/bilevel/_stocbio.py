"""StocBiO: stochastic inner steps, then a Neumann series."""

from collections.abc import Callable
from typing import Any

import optax

from optlab._checks import check_range
from optlab.base import Solver
from optlab.bilevel._alternating import alternating
from optlab.hypergrad import neumann

__all__ = ["stocbio"]


def stocbio(
    outer: Callable,
    inner: Callable,
    *,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    terms: int = 3,
    neumann_step: Any = 0.5,
    inner_steps: int = 10,
    **options: Any,
) -> Solver:
    r"""Stochastic bilevel optimizer: warm-started inner steps, and a Neumann series.

    .. math::
        y \leftarrow y - \rho\, g_y \;(T \text{ times}), \qquad
        x \leftarrow x - \gamma \Big(f_x - g_{xy} \alpha \sum_{k=0}^K
            (I - \alpha g_{yy})^k f_y\Big)


    Args:
        outer: f, a function ``(x, y, batch) -> scalar``.
        inner: g, likewise, strongly convex in y.
        outer_optimizer: any optax transformation, for x.
        inner_optimizer: for y.
        terms: K of :func:`optlab.hypergrad.neumann`, at least 1.
        neumann_step: :math:`\alpha`, below twice the inverse of the largest eigenvalue.
        inner_steps: T.
        **options: see :func:`alternating`.

    Returns:
        The solver, whose state is an :class:`AlternatingState`.

    Raises:
        ValueError: if a number is out of range.

    >>> import jax
    >>> f, g = lambda x, y, b: (y - 1) ** 2 + x**2, lambda x, y, b: (y - x) ** 2
    >>> sgd = optax.sgd(0.1)
    >>> solver = stocbio(f, g, outer_optimizer=sgd, inner_optimizer=sgd, neumann_step=0.4)
    >>> state = solver.init(jax.random.key(0), 0.0, 0.0)
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=60)
    >>> round(float(state.x), 3)
    0.5

    References:
        K. Ji, J. Yang, Y. Liang, "Bilevel Optimization: Convergence Analysis and Enhanced Design",
        ICML 2021, arXiv:2010.07962

    Differs from the released code: that multiplies only the last term by the step size.
    """
    check_range("neumann_step", neumann_step, 0.0, float("inf"), closed="()")
    return alternating(
        outer,
        inner,
        outer_optimizer=outer_optimizer,
        inner_optimizer=inner_optimizer,
        estimator=neumann(terms, neumann_step, tolerance=None),
        inner_steps=inner_steps,
        **options,
    )
