"""TTSA and BSA: stochastic approximation with one sampled term of the Neumann series."""

from collections.abc import Callable
from typing import Any

import optax

from optlab._checks import check_range
from optlab.base import Solver
from optlab.bilevel._alternating import alternating
from optlab.hypergrad import neumann

__all__ = ["ttsa"]


def ttsa(
    outer: Callable,
    inner: Callable,
    *,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    terms: int = 10,
    neumann_step: Any = 0.5,
    inner_steps: int = 1,
    **options: Any,
) -> Solver:
    r"""Two-timescale stochastic approximation: one inner step, one sampled product.

    .. math::
        y \leftarrow y - \rho_t\, g_y, \qquad
        x \leftarrow x - \gamma_t \Big(f_x - g_{xy} \alpha K
            \prod_{i=1}^{p} (I - \alpha g_{yy}) f_y\Big), \quad p \sim U\{0, \dots, K - 1\}

    with step sizes that fall like :math:`\rho_t \sim t^{-2/5}` and :math:`\gamma_t \sim t^{-3/5}`.
    With more inner steps, and both falling like :math:`t^{-1/2}`, it is BSA.


    Args:
        outer: f, a function ``(x, y, batch) -> scalar``.
        inner: g, likewise, strongly convex in y.
        outer_optimizer: any optax transformation, for x.
        inner_optimizer: for y.
        terms: K of :func:`optlab.hypergrad.neumann`, at least 1.
        neumann_step: :math:`\alpha`, below twice the inverse of the largest eigenvalue.
        inner_steps: 1, or more for BSA.
        **options: see :func:`alternating`.

    Returns:
        The solver, whose state is an :class:`AlternatingState`.

    Raises:
        ValueError: if a number is out of range.

    >>> import jax
    >>> f, g = lambda x, y, b: (y - 1) ** 2 + x**2, lambda x, y, b: (y - x) ** 2
    >>> slow = optax.sgd(lambda t: 0.5 / (t + 5.0))
    >>> solver = ttsa(f, g, outer_optimizer=slow, inner_optimizer=optax.sgd(0.2), terms=4,
    ...               neumann_step=0.2)
    >>> state = solver.init(jax.random.key(0), 0.0, 0.0)
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=500)
    >>> abs(float(state.x) - 0.5) < 0.1
    True

    References:
        M. Hong, H.-T. Wai, Z. Wang, Z. Yang, "A Two-Timescale Framework for Bilevel Optimization:
        Complexity Analysis and Application to Actor-Critic", SIAM J. Optim. 2023, arXiv:2007.05170;
        S. Ghadimi, M. Wang, "Approximation Methods for Bilevel Programming", 2018,
        arXiv:1802.02246 (BSA)
    """
    check_range("neumann_step", neumann_step, 0.0, float("inf"), closed="()")
    return alternating(
        outer,
        inner,
        outer_optimizer=outer_optimizer,
        inner_optimizer=inner_optimizer,
        estimator=neumann(terms, neumann_step, randomized=True, tolerance=None),
        inner_steps=inner_steps,
        **options,
    )
