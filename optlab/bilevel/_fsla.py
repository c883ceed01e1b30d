"""FSLA: SOBA with recursive momentum on the hypergradient."""

from collections.abc import Callable
from typing import Any

import optax

from optlab.base import Solver
from optlab.bilevel._directions import storm
from optlab.bilevel._soba import soba

__all__ = ["fsla"]


def fsla(
    outer: Callable,
    inner: Callable,
    *,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    linear_optimizer: optax.GradientTransformation,
    weight: optax.ScalarOrSchedule,
    **options: Any,
) -> Solver:
    r"""Fully single loop algorithm: plain steps in y and v, recursive momentum in x.

    .. math::
        d_t = h(z_t; b_t) + (1 - a_t) \big(d_{t-1} - h(z_{t-1}; b_t)\big), \qquad
        h = f_x - g_{xy} v, \quad z = (x, y, v)

    Args:
        outer: f, a function ``(x, y, batch) -> scalar``.
        inner: g, likewise, strongly convex in y.
        outer_optimizer: any optax transformation, for x.
        inner_optimizer: for y.
        linear_optimizer: for v.
        weight: :math:`a_t` in [0, 1], a number or a schedule of the step count.
        **options: ``project_outer`` and ``project_inner``, see :func:`soba`.

    Returns:
        The solver, whose state is a :class:`SobaState`.

    Raises:
        ValueError: if ``weight`` is out of range.

    >>> import jax
    >>> levels = {f"{k}_optimizer": optax.sgd(0.1) for k in ("outer", "inner", "linear")}
    >>> f, g = lambda x, y, b: (y - 1) ** 2 + x**2, lambda x, y, b: (y - x) ** 2
    >>> solver = fsla(f, g, weight=0.5, **levels)
    >>> state = solver.init(jax.random.key(0), 0.0, 0.0)
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=200)
    >>> round(float(state.x), 3)
    0.5

    References:
        J. Li, B. Gu, H. Huang, "A Fully Single Loop Algorithm for Bilevel Optimization without
        Hessian Inverse", AAAI 2022, arXiv:2112.04660
    """
    return soba(
        outer,
        inner,
        outer_optimizer=outer_optimizer,
        inner_optimizer=inner_optimizer,
        linear_optimizer=linear_optimizer,
        hyper_direction=storm(weight),
        **options,
    )
