"""MRBO: recursive momentum at both levels, with a Neumann series."""

from collections.abc import Callable
from typing import Any

import optax

from optlab._checks import check_range
from optlab.base import Solver
from optlab.bilevel._alternating import alternating
from optlab.bilevel._directions import storm
from optlab.hypergrad import neumann

__all__ = ["mrbo"]


def mrbo(
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
    r"""Momentum-based recursive bilevel optimizer.

    As :func:`sustain`, with h from the whole Neumann series instead of one sampled term.


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
    >>> sgd = optax.sgd(0.1)
    >>> solver = mrbo(f, g, outer_optimizer=sgd, inner_optimizer=sgd, weight=0.5,
    ...               neumann_step=0.4)
    >>> state = solver.init(jax.random.key(0), 0.0, 0.0)
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=200)
    >>> round(float(state.x), 3)
    0.5

    References:
        J. Yang, K. Ji, Y. Liang, "Provably Faster Algorithms for Bilevel Optimization", NeurIPS
        2021, arXiv:2106.04692
    """
    check_range("neumann_step", neumann_step, 0.0, float("inf"), closed="()")
    return alternating(
        outer,
        inner,
        outer_optimizer=outer_optimizer,
        inner_optimizer=inner_optimizer,
        estimator=neumann(terms, neumann_step, tolerance=None),
        outer_direction=storm(weight),
        inner_direction=storm(weight),
        simultaneous=True,
        **options,
    )
