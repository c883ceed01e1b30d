"""F2SA: the penalty method with a multiplier that grows."""

from collections.abc import Callable
from typing import Any

import optax

from optlab._arithmetic import value_at
from optlab._checks import check_range
from optlab.base import Solver
from optlab.bilevel._penalty import penalty

__all__ = ["f2sa"]


def f2sa(
    outer: Callable,
    inner: Callable,
    *,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    multiplier: optax.ScalarOrSchedule | None = None,
    inner_steps: int = 10,
    **options: Any,
) -> Solver:
    r"""Fully first-order stochastic approximation.

    .. math::
        y \leftarrow y - \rho\, (f_y + \lambda_t g_y), \quad z \leftarrow z - \rho\, g_z
        \quad (T \text{ times}), \qquad
        x \leftarrow x - \gamma \big(f_x + \lambda_t (g_x(x, y) - g_x(x, z))\big)

    Args:
        outer: f, a function ``(x, y, batch) -> scalar``.
        inner: g, likewise.
        outer_optimizer: any optax transformation, for x.
        inner_optimizer: for y and z; for y its steps must shrink as the multiplier grows.
        multiplier: :math:`\lambda_t > 0`, a number or a schedule of the step count; None is
            :math:`1 + t / 10`.
        inner_steps: T, at least 1.
        **options: see :func:`penalty`.

    Returns:
        The solver, whose state is a :class:`PenaltyState`.

    Raises:
        ValueError: if ``multiplier`` or ``inner_steps`` is out of range.

    >>> import jax
    >>> f, g = lambda x, y, b: (y - 1) ** 2, lambda x, y, b: (y - 2 * x) ** 2
    >>> solver = f2sa(f, g, outer_optimizer=optax.sgd(0.01), inner_optimizer=optax.sgd(0.05),
    ...               multiplier=10.0)
    >>> state = solver.init(jax.random.key(0), 0.0, 0.0)
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=300)
    >>> round(float(state.x), 3)
    0.5

    References:
        J. Kwon, D. Kwon, S. Wright, R. Nowak, "A Fully First-Order Method for Stochastic Bilevel
        Optimization", ICML 2023, arXiv:2301.10945
    """
    check_range("multiplier", multiplier, 0.0, float("inf"), closed="()")
    growing = (lambda t: 1.0 + 0.1 * t) if multiplier is None else multiplier
    return penalty(
        outer,
        inner,
        outer_optimizer=outer_optimizer,
        inner_optimizer=inner_optimizer,
        sigma=lambda t: 1.0 / value_at(growing, t),
        inner_steps=inner_steps,
        rescale=True,
        **options,
    )
