"""MAML: an initialisation from which a few gradient steps learn a task."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from optlab._checks import check_count
from optlab.base import Solver
from optlab.bilevel._episodic import episodic
from optlab.hypergrad import unrolled

__all__ = ["maml"]


def maml(
    outer: Callable,
    inner: Callable,
    *,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    inner_steps: int = 1,
    first_order: bool = False,
    **options: Any,
) -> Solver:
    r"""Differentiates the steps in which each task is learnt.

    .. math::
        x \leftarrow x - \gamma\, \tfrac1n \sum_t \nabla_x f_t\big(x, y_t^T(x)\big), \qquad
        y_t^{k+1} = y_t^k - \alpha\, \nabla_y g_t(x, y_t^k), \quad y_t^0 = 0

    With :func:`optlab.problems.few_shot` the parameters of a task are x + y.

    Args:
        outer: f, a function ``(x, y, batch) -> scalar`` of one task.
        inner: g, likewise.
        outer_optimizer: any optax transformation, for x.
        inner_optimizer: for y, anew with every task; ``optax.sgd`` in the paper.
        inner_steps: T, at least 1.
        first_order: whether x counts as a constant in the inner steps (FOMAML): a gradient step
            then costs less, and its derivative is not exact.
        **options: ``tasks_at_once`` and ``project_outer``, see :func:`episodic`.

    Returns:
        The solver, whose state is an :class:`EpisodicState`.

    Raises:
        ValueError: if a number is out of range.

    >>> import jax.numpy as jnp
    >>> from optlab.problems import few_shot
    >>> f, g = few_shot(lambda params, inputs: inputs @ params)
    >>> sgd, batch = optax.sgd(0.1), (jnp.ones((5, 4, 3)), jnp.zeros((5, 4), jnp.int32))
    >>> solver = maml(f, g, outer_optimizer=sgd, inner_optimizer=sgd)
    >>> state = solver.init(jax.random.key(0), jnp.zeros((3, 2)), jnp.zeros((3, 2)))
    >>> state, info = solver.step(state, batch, batch)
    >>> round(float(state.x[0, 0]), 3)
    0.036

    References:
        C. Finn, P. Abbeel, S. Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
        Networks", ICML 2017, arXiv:1703.03400
    """
    check_count("inner_steps", inner_steps, 1)

    def descended(x, y, batch):
        return inner(jax.lax.stop_gradient(x) if first_order else x, y, batch)

    return episodic(
        outer,
        descended,
        outer_optimizer=outer_optimizer,
        inner_optimizer=inner_optimizer,
        estimator=unrolled(inner_optimizer, inner_steps, tolerance=None),
        **options,
    )
