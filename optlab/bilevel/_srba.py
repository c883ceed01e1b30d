"""SRBA: SOBA whose values follow their differences from a full pass."""

from collections.abc import Callable
from typing import Any

import optax

from optlab.base import Solver
from optlab.bilevel._directions import spider
from optlab.bilevel._soba import soba

__all__ = ["srba"]


def srba(
    outer: Callable,
    inner: Callable,
    *,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    linear_optimizer: optax.GradientTransformation,
    paired: bool = False,
    full_in_batches: bool = False,
    **options: Any,
) -> Solver:
    """SOBA with SARAH's recursive differences: optimal in the number of samples.

    Every period starts with a step that is given all data,
    ``solver.step(state, outer_batch, inner_batch, outer_full=..., inner_full=...)``.

    Args:
        outer: f, a function ``(x, y, batch) -> scalar``.
        inner: g, likewise, strongly convex in y.
        outer_optimizer: any optax transformation, for x; constant steps serve.
        inner_optimizer: for y.
        linear_optimizer: for the linear system.
        paired: whether the two values of a step are taken at once, see :func:`spider`.
        full_in_batches: whether all data come as batches, as many of each objective, that are
            taken one after the other, see :func:`spider`.
        **options: ``project_outer`` and ``project_inner``, see :func:`soba`.

    Returns:
        The solver, whose state is a :class:`SobaState`.

    >>> import jax
    >>> f, g = lambda x, y, b: (y - 1) ** 2 + x**2, lambda x, y, b: (y - x) ** 2
    >>> sgd = optax.sgd(0.1)
    >>> solver = srba(f, g, outer_optimizer=sgd, inner_optimizer=sgd, linear_optimizer=sgd)
    >>> state = solver.init(jax.random.key(0), 0.0, 0.0)
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=200)
    >>> round(float(state.x), 3)
    0.5

    References:
        M. Dagréou, T. Moreau, S. Vaiter, P. Ablin, "A Lower Bound and a Near-Optimal Algorithm for
        Bilevel Empirical Risk Minimization", AISTATS 2024, arXiv:2302.08766
    """
    return soba(
        outer,
        inner,
        outer_optimizer=outer_optimizer,
        inner_optimizer=inner_optimizer,
        linear_optimizer=linear_optimizer,
        joint_direction=spider(paired=paired, full_in_batches=full_in_batches),
        **options,
    )
