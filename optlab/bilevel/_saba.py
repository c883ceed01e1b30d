"""SABA: SOBA with a memory of the values on every batch."""

from collections.abc import Callable
from typing import Any

import optax

from optlab._checks import check_count
from optlab.base import Solver
from optlab.bilevel._directions import saga
from optlab.bilevel._soba import soba

__all__ = ["saba"]


def saba(
    outer: Callable,
    inner: Callable,
    *,
    outer_batches: int,
    inner_batches: int,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    linear_optimizer: optax.GradientTransformation,
    **options: Any,
) -> Solver:
    """SOBA with SAGA's memory: as fast as full gradients, at the cost of batches.

    ``state, info = solver.step(state, outer_batch, inner_batch, outer_index=i, inner_index=j)``,
    with the numbers of the two batches.

    Args:
        outer: f, a function ``(x, y, batch) -> scalar``.
        inner: g, likewise, strongly convex in y.
        outer_batches: the number of outer batches; their memory is that many times x and y.
        inner_batches: the number of inner batches; their memory is that many times x and twice y.
        outer_optimizer: any optax transformation, for x; constant steps serve.
        inner_optimizer: for y.
        linear_optimizer: for the linear system.
        **options: ``project_outer`` and ``project_inner``, see :func:`soba`.

    Returns:
        The solver, whose state is a :class:`SobaState`.

    Raises:
        ValueError: if a number of batches is no positive integer.

    >>> import jax
    >>> levels = {f"{k}_optimizer": optax.sgd(0.1) for k in ("outer", "inner", "linear")}
    >>> f, g = lambda x, y, b: (y - b) ** 2 + x**2, lambda x, y, b: (y - x) ** 2
    >>> solver = saba(f, g, outer_batches=2, inner_batches=1, **levels)
    >>> step = lambda s, i: solver.step(s, 2.0 * i, None, outer_index=i, inner_index=0)
    >>> start = solver.init(jax.random.key(0), 0.0, 0.0)
    >>> round(float(jax.lax.scan(step, start, jax.numpy.arange(200) % 2)[0].x), 3)
    0.5

    References:
        M. Dagréou, P. Ablin, S. Vaiter, T. Moreau, "A framework for bilevel optimization that
        enables stochastic and global variance reduction algorithms", NeurIPS 2022,
        arXiv:2201.13409
    """
    check_count("outer_batches", outer_batches, 1)
    check_count("inner_batches", inner_batches, 1)
    return soba(
        outer,
        inner,
        outer_optimizer=outer_optimizer,
        inner_optimizer=inner_optimizer,
        linear_optimizer=linear_optimizer,
        outer_direction=saga(outer_batches),
        inner_direction=saga(inner_batches),
        **options,
    )
