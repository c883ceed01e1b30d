"""Hypergradients by a Neumann series, whole or sampled."""

from typing import Any

import jax
import optax

from optlab._checks import check_count, check_range
from optlab._loops import repeat_up_to
from optlab.hypergrad._estimator import (
    Adjoint,
    Estimator,
    check_batches,
    estimator_from_adjoint,
    hessian_product,
    need_key,
    stateless,
)

__all__ = ["neumann"]


def neumann(
    terms: int,
    step_size: Any,
    *,
    randomized: bool = False,
    fresh_batches: bool = False,
    tolerance: float | None = 1e-2,
) -> Estimator:
    r"""Replaces the inverse Hessian by the first terms of its Neumann series.

    .. math::
        v = \alpha \sum_{k=0}^{K} (I - \alpha g_{yy})^k f_y, \qquad h = f_x - g_{xy} v

    or, randomized, by one term that is drawn and stands for all of them,

    .. math::
        v = \alpha K \prod_{i=1}^{p} (I - \alpha g_{yy}) f_y, \qquad p \sim U\{0, \dots, K - 1\}

    whose mean is the series of K terms. The series is what backpropagation through K steps of
    gradient descent from y would give, without the steps.

    Args:
        terms: K, at least 1; the series takes K products, a draw p of them.
        step_size: :math:`\alpha`, below twice the inverse of the largest eigenvalue; may be traced.
        randomized: whether to draw one term; needs a key.
        fresh_batches: whether each factor has a batch of its own: the leaves of ``inner_batch``
            then have a leading axis of K + 1; the last batch serves the cross derivative and the
            check.
        tolerance: see :func:`cg`; a single draw is never within it.

    Returns:
        The estimator.

    Raises:
        ValueError: if ``terms`` or ``step_size`` is out of range.

    >>> inner, outer = lambda x, y, b: (y - 3 * x) ** 2, lambda x, y, b: y**2
    >>> estimator = neumann(40, 0.25)
    >>> h, _ = estimator.estimate(outer, inner, 1.0, 3.0, None, None)
    >>> round(float(h), 4)
    18.0

    References:
        J. Lorraine, P. Vicol, D. Duvenaud, "Optimizing Millions of Hyperparameters by Implicit
        Differentiation", AISTATS 2020, arXiv:1911.02590; S. Ghadimi, M. Wang, "Approximation
        Methods for Bilevel Programming", 2018, arXiv:1802.02246 (randomized); K. Ji, J. Yang,
        Y. Liang, "Bilevel Optimization: Convergence Analysis and Enhanced Design", ICML 2021,
        arXiv:2010.07962 (fresh batches)

    Differs from the released code: that of the last paper multiplies only the last term by the step
    size.
    """
    check_count("terms", terms, 1)
    check_range("step_size", step_size, 0.0, float("inf"), closed="()")
    check_range("tolerance", tolerance, 0.0, float("inf"), closed="()")

    def series(at, step):
        def add(k, carry):
            total, p = carry
            p = step(k, p)
            return optax.tree.add(total, p), p

        return jax.lax.fori_loop(0, terms, add, (at.outer_y, at.outer_y))[0], terms

    def draw(at, step, key):
        p = jax.random.randint(need_key(key, "neumann(randomized=True)"), (), 0, terms)
        return optax.tree.scale(terms, repeat_up_to(terms - 1, p, step, at.outer_y)), p

    def estimate(outer, inner, x, y, outer_batch, inner_batch, *, key=None, state=None):
        batch = inner_batch
        if fresh_batches:
            check_batches(inner_batch, terms + 1)
            batch = jax.tree.map(lambda leaf: leaf[-1], inner_batch)

        def adjoint(at, problem, key, state):
            del problem, state

            def step(k, p):
                if fresh_batches:
                    own = jax.tree.map(lambda leaf: leaf[k], inner_batch)
                    product = hessian_product(inner, x, y, own, p)
                else:
                    product = at.hessian(p)
                return optax.tree.add_scale(p, -step_size, product)

            v, products = draw(at, step, key) if randomized else series(at, step)
            return Adjoint(optax.tree.scale(step_size, v), products)

        base = estimator_from_adjoint(adjoint, tolerance=tolerance)
        return base.estimate(outer, inner, x, y, outer_batch, batch, key=key, state=state)

    return Estimator(stateless, estimate)
