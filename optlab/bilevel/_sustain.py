"""SUSTAIN: recursive momentum at both levels, with a sampled Neumann term."""

from collections.abc import Callable
from typing import Any

import optax

from optlab._checks import check_range
from optlab.base import Solver
from optlab.bilevel._alternating import alternating
from optlab.bilevel._directions import storm
from optlab.hypergrad import neumann

__all__ = ["sustain"]


def sustain(
    outer: Callable,
    inner: Callable,
    *,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    weight: optax.ScalarOrSchedule,
    terms: int = 10,
    neumann_step: Any = 0.5,
    **options: Any,
) -> Solver:
    r"""Single-timescale double-momentum stochastic approximation.

    .. math::
        d^y_t = g_y(z_t) + (1 - a_t) (d^y_{t-1} - g_y(z_{t-1})), \qquad
        d^x_t = h(z_t) + (1 - a_t) (d^x_{t-1} - h(z_{t-1}))

    both on the batches of step t, with h from one sampled term of the Neumann series; the same
    term at both points.


    Args:
        outer: f, a function ``(x, y, batch) -> scalar``.
        inner: g, likewise, strongly convex in y.
        outer_optimizer: any optax transformation, for x.
        inner_optimizer: for y.
        weight: :math:`a_t` in [0, 1]; the paper's falls like :math:`t^{-2/3}`.
        terms: K of :func:`optlab.hypergrad.neumann`, at least 1.
        neumann_step: :math:`\alpha`, below twice the inverse of the largest eigenvalue.
        **options: see :func:`alternating`.

    Returns:
        The solver, whose state is an :class:`AlternatingState`.

    Raises:
        ValueError: if a number is out of range.

    >>> import jax
    >>> f, g = lambda x, y, b: (y - 1) ** 2 + x**2, lambda x, y, b: (y - x) ** 2
    >>> slow = optax.sgd(lambda t: 0.5 / (t + 5.0))
    >>> solver = sustain(f, g, outer_optimizer=slow, inner_optimizer=optax.sgd(0.2), terms=4,
    ...                  weight=0.5, neumann_step=0.2)
    >>> state = solver.init(jax.random.key(0), 0.0, 0.0)
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=500)
    >>> abs(float(state.x) - 0.5) < 0.1
    True

    References:
        P. Khanduri, S. Zeng, M. Hong, H.-T. Wai, Z. Wang, Z. Yang, "A Near-Optimal Algorithm for
        Stochastic Bilevel Optimization via Double-Momentum", NeurIPS 2021, arXiv:2102.07367
    """
    check_range("neumann_step", neumann_step, 0.0, float("inf"), closed="()")
    return alternating(
        outer,
        inner,
        outer_optimizer=outer_optimizer,
        inner_optimizer=inner_optimizer,
        estimator=neumann(terms, neumann_step, randomized=True, tolerance=None),
        outer_direction=storm(weight),
        inner_direction=storm(weight),
        simultaneous=True,
        **options,
    )
