"""A limiter of how fast the norm of an update may grow from step to step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import wide_dtype
from optlab._checks import check_range
from optlab.linalg import safe_norm

__all__ = ["LimitNormGrowthState", "limit_norm_growth"]


class LimitNormGrowthState(NamedTuple):
    """State of :func:`limit_norm_growth`: one number a leaf."""

    norm: optax.Updates  # a scalar for each leaf, shape=(), dtype=float32 or the leaf's if wider


def limit_norm_growth(max_growth: float = 1.01) -> optax.GradientTransformation:
    r"""Scales each leaf down where its norm exceeds that of its last update by a factor.

    .. math::
        u_t = g_t \min\left(1, \frac{\gamma \|u_{t-1}\|}{\|g_t\|}\right)

    The first update passes, and so does one after an update of zero. A leaf of any size costs 1
    number of state.

    Args:
        max_growth: the factor :math:`\gamma \ge 1`.

    Returns:
        A transformation; its updates have the gradients' shapes and dtypes. NaN and inf propagate.

    Raises:
        ValueError: if ``max_growth`` is below one.

    >>> tx = limit_norm_growth(2.0)
    >>> _, state = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))
    >>> updates, _ = tx.update(jnp.array([30.0, 40.0]), state)
    >>> bool(jnp.allclose(updates, jnp.array([6.0, 8.0])))
    True

    References:
        X. Chen et al., "Fira: Can We Achieve Full-rank Training of LLMs Under Low-rank
        Constraint?", NeurIPS 2025, arXiv:2410.01623

    Differs from the paper: a zero norm sets no limit. The released code divides by the last norm
    plus 1e-8, so that after a zero gradient an update stays near zero for hundreds of steps.
    """
    check_range("max_growth", max_growth, 1.0, float("inf"))

    def init(params):
        def leaf(p):
            return jnp.zeros((), wide_dtype(p))

        return LimitNormGrowthState(norm=jax.tree.map(leaf, params))

    def update(updates, state, params=None):
        del params

        norms = jax.tree.map(lambda g, last: safe_norm(g.astype(last.dtype)), updates, state.norm)

        def factor(norm, last):
            exceeds = (last > 0) & (norm > max_growth * last)
            return jnp.where(exceeds, max_growth * last / norm, 1)

        factors = jax.tree.map(factor, norms, state.norm)
        new_updates = jax.tree.map(
            lambda g, f: (f * g.astype(f.dtype)).astype(g.dtype), updates, factors
        )
        return new_updates, LimitNormGrowthState(norm=jax.tree.map(jnp.multiply, factors, norms))

    return optax.GradientTransformation(init, update)
