"""M-FAC: gradients times the inverse Fisher matrix of a sliding window of gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import wide_dtype
from optlab._checks import check_count, check_range

__all__ = ["ScaleByMFacState", "m_fac", "scale_by_m_fac"]


class ScaleByMFacState(NamedTuple):
    """State of :func:`scale_by_m_fac`: the last w gradients, w numbers a parameter, and w^2."""

    count: jax.Array  # shape=(), dtype=int32: steps
    history: optax.Updates  # [w, ...] at each leaf, dtype=float32 or the leaf's if wider
    gram: jax.Array  # shape=(w, w), inner products of the gradients in the history


def _dual_solution(gram, damping, slot):
    r"""Solves :math:`(\delta I + K) y = e_k`, however unlike the rows of K are in size.

    With its diagonal scaled to one the matrix has no eigenvalue below the least :math:`\delta /
    (\delta + K_{kk})`. Where that is within rounding, as with :math:`\delta \ll \|g\|^2`, a raised
    diagonal keeps nearly parallel gradients from turning their rounding errors into updates, and
    two refinements take its effect back elsewhere.
    """
    size, dtype = gram.shape[0], gram.dtype
    diagonal = jnp.diagonal(gram) + damping
    root = jnp.sqrt(diagonal)
    ridge = jnp.maximum(jnp.sqrt(jnp.finfo(dtype).eps) - jnp.min(damping / diagonal), 0)
    scaled = (gram / root[:, None]) / root[None, :]
    matrix = jnp.where(jnp.eye(size, dtype=bool), 1, scaled).astype(dtype)
    factor = jax.scipy.linalg.cho_factor(matrix + ridge.astype(dtype) * jnp.eye(size, dtype=dtype))
    unit = (jnp.arange(size) == slot).astype(dtype) / root
    y = jax.scipy.linalg.cho_solve(factor, unit)
    for _ in range(2):
        y = y + jax.scipy.linalg.cho_solve(factor, unit - matrix @ y)
    return y / root


def scale_by_m_fac(history: int = 512, damping: float = 1e-5) -> optax.GradientTransformation:
    r"""Multiplies by the inverse of the damped Fisher matrix of the last few gradients.

    .. math::
        u_t = \Big(\delta I + \frac{1}{w} \sum_{k=0}^{w-1} g_{t-k} g_{t-k}^\top\Big)^{-1} g_t
        = G^\top \Big(\delta I + \frac{1}{w} G G^\top\Big)^{-1} e_t

    with the gradients of the whole pytree, as vectors, in the rows of G, zeros before the first
    step. As :math:`g_t` is one of them, a combination of these rows is the solution, and nothing
    cancels. A step takes O(d w + w^3) operations for d parameters.

    Args:
        history: w, the length of the window, one or more.
        damping: :math:`\delta > 0`, in units of a squared gradient.

    Returns:
        A transformation; its updates have the gradients' shapes and dtypes. A NaN or an infinity
        stays in the window, and so in the updates, for w + 1 steps: see ``optax.apply_if_finite``.

    Raises:
        ValueError: if an argument is out of range.

    >>> tx = scale_by_m_fac(history=1, damping=1.0)
    >>> g = {"w": jnp.array([2.0, 0.0]), "b": jnp.array(1.0)}
    >>> updates, _ = tx.update(g, tx.init(g))
    >>> [round(float(x), 4) for x in (*updates["w"], updates["b"])]  # g / (1 + |g|^2)
    [0.3333, 0.0, 0.1667]

    References:
        E. Frantar, E. Kurtic, D. Alistarh, "M-FAC: Efficient Matrix-Free Approximations of
        Second-Order Information", NeurIPS 2021, arXiv:2107.03356

    Differs from the paper: one Cholesky solve of w equations a step in place of the recursion, with
    no state but the gradients and their inner products; of the same order.
    """
    check_count("history", history, 1)
    check_range("damping", damping, 0.0, float("inf"), closed="()")

    def init(params):
        size = int(history)

        def leaf(p):
            zeros = jnp.zeros_like(p, dtype=wide_dtype(p))
            return jnp.broadcast_to(zeros[None], (size, *p.shape))

        past = jax.tree.map(leaf, params)
        dtype = jnp.result_type(jnp.float32, *(h.dtype for h in jax.tree.leaves(past)))
        return ScaleByMFacState(jnp.zeros((), jnp.int32), past, jnp.zeros((size, size), dtype))

    def update(updates, state, params=None):
        del params
        size, dtype = state.gram.shape[0], state.gram.dtype

        def total(function):
            terms = jax.tree.map(function, updates, state.history)
            return jax.tree.reduce(jnp.add, terms, jnp.zeros((), dtype))

        def inner_products(g, h):
            terms = h * g.astype(h.dtype)[None]
            return jnp.sum(terms, axis=tuple(range(1, h.ndim))).astype(dtype)

        def square(g, h):
            return jnp.sum(jnp.square(g.astype(h.dtype))).astype(dtype)

        def read():
            """All that takes the window, in which an old gradient still has the new one's place."""
            slot = state.count % size
            newest = jnp.arange(size) == slot
            row = jnp.where(newest, total(square), total(inner_products))
            gram = state.gram.at[slot].set(row).at[:, slot].set(row)
            y = _dual_solution(gram / size, jnp.asarray(damping, dtype), slot)
            older = jnp.where(newest, 0, y)

            def combination(g, h):
                u = jnp.tensordot(older.astype(h.dtype), h, axes=1)
                return (u + y[slot].astype(h.dtype) * g.astype(h.dtype)).astype(g.dtype)

            return jax.tree.map(combination, updates, state.history), gram, slot

        # Both branches are the same. As the place to write to comes out of a branch that has read,
        # XLA writes in place; else it copies the window, on CPU four times a step.
        new_updates, gram, slot = jax.lax.cond(state.count >= 0, read, read)

        def write(g, h):
            return jax.lax.dynamic_update_index_in_dim(h, g.astype(h.dtype), slot, axis=0)

        past = jax.tree.map(write, updates, state.history)
        return new_updates, ScaleByMFacState(optax.safe_increment(state.count), past, gram)

    return optax.GradientTransformation(init, update)


def m_fac(
    learning_rate: optax.ScalarOrSchedule,
    history: int = 512,
    damping: float = 1e-5,
    *,
    b1: float = 0.0,
    weight_decay: float = 0.0,
    mask: Any | None = None,
    mu_dtype: Any | None = None,
) -> optax.GradientTransformation:
    r"""Momentum of M-FAC's directions: see :func:`scale_by_m_fac`.

    .. math::
        m_t = \beta_1 m_{t-1} + (1 - \beta_1) u_t, \qquad x_t = x_{t-1} - \eta m_t

    An m x n leaf costs (w + 1) m n numbers of state for a window of w, and all leaves together w^2
    more.

    Args:
        learning_rate: step size, or a schedule of the step count; 1e-3 in the released code.
        history: see :func:`scale_by_m_fac`; 1024 in the released code, 512 in its examples.
        damping: see :func:`scale_by_m_fac`. Near a minimum, where :math:`g^2 \ll w \delta`, the
            method is gradient descent with :math:`\eta / \delta` for a step size.
        b1: decay of the momentum, in [0, 1).
        weight_decay: added to the gradient times the params, so that the Fisher matrix has it too.
        mask: pytree of bools, or a function of params giving one: where to decay.
        mu_dtype: dtype in which the momentum is stored; None keeps the leaf's.

    Returns:
        A transformation; its ``update`` needs ``params``.

    Raises:
        ValueError: if an argument is out of range.

    >>> params = {"w": jnp.ones(3)}
    >>> tx = m_fac(0.1, history=4, damping=1.0)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> bool((updates["w"] < 0).all())
    True

    References:
        E. Frantar, E. Kurtic, D. Alistarh, "M-FAC: Efficient Matrix-Free Approximations of
        Second-Order Information", NeurIPS 2021, arXiv:2107.03356

    Differs from the paper: see :func:`scale_by_m_fac`. Differs from the released code: any length
    of the window will do, where that needs multiples of 32; the mask of pruned weights is left to
    ``optax.masked``.
    """
    check_range("b1", b1, 0.0, 1.0)
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        scale_by_m_fac(history, damping),
        optax.ema(b1, debias=False, accumulator_dtype=mu_dtype),
        optax.scale_by_learning_rate(learning_rate),
    )
