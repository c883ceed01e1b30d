"""Hypergradients by a penalty on the inner objective's value: first derivatives only."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._batches import nth_batch
from optlab._checks import check_count, check_range
from optlab.base import PyTree
from optlab.hypergrad._errors import adjoint_error, verdict
from optlab.hypergrad._estimator import (
    Estimator,
    HypergradientInfo,
    as_arrays,
    check_batches,
    check_problem,
    differentiate,
    resume,
)
from optlab.hypergrad._inner_loop import (
    InnerOptimizer,
    inner_step,
    transformation_at,
)

__all__ = ["penalty"]


class PenaltyState(NamedTuple):
    """The minimiser of the penalised objective, and both optimizers' states."""

    penalized: PyTree  # like y
    optimizer: PyTree  # of the inner objective
    penalized_optimizer: PyTree  # of the penalised objective


def penalty(
    strength: float,
    optimizer: InnerOptimizer,
    steps: int,
    *,
    fresh_batches: bool = False,
    tolerance: float | None = 1e-2,
) -> Estimator:
    r"""Compares the inner minimiser with that of the inner objective tilted by the outer one.

    .. math::
        z \approx \arg\min_y g(x, y), \qquad
        y_\lambda \approx \arg\min_y g(x, y) + \tfrac{1}{\lambda} f(x, y), \qquad
        h = f_x(x, y_\lambda) + \lambda \big(g_x(x, y_\lambda) - g_x(x, z)\big)

    Both are found by the same optimizer, z from y, and :math:`y_\lambda` from z at the first call
    and from where it was at the next. The bias is :math:`O(1 / \lambda)`; and since
    :math:`\lambda (z - y_\lambda)` estimates the adjoint, what the steps leave over counts
    :math:`\lambda` times. In float32 a large strength cancels digits.

    Args:
        strength: :math:`\lambda > 0`; may be traced.
        optimizer: any optax transformation, or a function of x that makes one.
        steps: of the optimizer a call, for z and for :math:`y_\lambda` each.
        fresh_batches: whether each step has an inner batch of its own: the leaves then have a
            leading axis of ``steps``; the last serves h.
        tolerance: see :func:`cg`; with None the estimator makes no product with the Hessian.

    Returns:
        The estimator; ``info.y`` is z.

    Raises:
        ValueError: if a number is out of range.

    >>> inner, outer = lambda x, y, b: (y - 3 * x) ** 2, lambda x, y, b: y**2
    >>> estimator = penalty(1e3, optax.sgd(0.25), steps=40)
    >>> h, info = estimator.estimate(outer, inner, 1.0, 0.0, None, None)
    >>> round(float(h), 1), round(float(info.y), 3)
    (18.0, 3.0)

    References:
        J. Kwon, D. Kwon, S. Wright, R. Nowak, "A Fully First-Order Method for Stochastic Bilevel
        Optimization", ICML 2023, arXiv:2301.10945; J. Kwon et al., "On Penalty Methods for
        Nonconvex Bilevel Optimization and First-Order Stochastic Approximation", ICLR 2024,
        arXiv:2309.01753

    Differs from the papers: the penalised objective is divided by the strength, so that one step
    size suits both.
    """
    check_range("strength", strength, 0.0, float("inf"), closed="()")
    check_count("steps", steps, 1)
    check_range("tolerance", tolerance, 0.0, float("inf"), closed="()")

    def init(x, y):
        # Copies: a state never aliases the variables.
        states = [transformation_at(optimizer, x).init(y) for _ in range(2)]
        return PenaltyState(jax.tree.map(jnp.copy, y), *states)

    def estimate(outer, inner, x, y, outer_batch, inner_batch, *, key=None, state=None):
        del key
        x, y = as_arrays(x), as_arrays(y)
        cold = state is None
        state = resume(init, x, y, state)
        if fresh_batches:
            check_batches(inner_batch, steps)
        batch = nth_batch(inner_batch, -1, fresh_batches)
        check_problem(outer, inner, x, y, outer_batch, batch)

        def tilted(x, y, batch):
            return inner(x, y, batch) + outer(x, y, outer_batch) / strength

        def run(objective, carry):
            def step(carry, t):
                batch = nth_batch(inner_batch, t, fresh_batches)
                return inner_step(optimizer, objective, x, carry, batch), None

            return jax.lax.scan(step, carry, jnp.arange(steps))[0]

        z, optimizer_state = run(inner, (y, state.optimizer))
        start = z if cold else state.penalized
        penalized, penalized_state = run(tilted, (start, state.penalized_optimizer))

        at = differentiate(outer, inner, x, z, outer_batch, batch)
        difference = optax.tree.sub(
            jax.grad(inner)(x, penalized, batch), jax.grad(inner)(x, z, batch)
        )
        h = optax.tree.add_scale(jax.grad(outer)(x, penalized, outer_batch), strength, difference)
        stationarity = optax.tree.norm(at.inner_y)
        residual = error = jnp.full_like(stationarity, jnp.nan)
        if tolerance is not None:
            v = optax.tree.scale(strength, optax.tree.sub(z, penalized))
            residual, error = adjoint_error(at.hessian, at.outer_y, v)
        info = HypergradientInfo(
            residual=residual,
            error=error,
            failed=verdict(error, tolerance),
            products=jnp.asarray(0 if tolerance is None else 2, jnp.int32),
            stationarity=stationarity,
            y=z,
            state=PenaltyState(penalized, optimizer_state, penalized_state),
        )
        return h, info

    return Estimator(init, estimate)
