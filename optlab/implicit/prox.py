r"""Proximal operators that optax lacks: ``prox(v, step_size)`` of :math:`\eta g`, on pytrees.

.. math:: \mathrm{prox}_{\eta g}(v) = \arg\min_x \tfrac12 \|x - v\|^2 + \eta\, g(x)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optlab.base import PyTree
from optlab.linalg import safe_norm

__all__ = [
    "elastic_net",
    "from_projection",
    "group_lasso",
    "lasso",
    "non_negative_lasso",
    "non_negative_ridge",
    "nuclear",
    "ridge",
]


def _shrink(v, threshold):
    return jnp.sign(v) * jax.nn.relu(jnp.abs(v) - threshold)


def lasso(v: PyTree, step_size: Any = 1.0, *, weight: Any = 1.0) -> PyTree:
    r"""Of :math:`w \|x\|_1`: soft thresholding.

    Args:
        v: pytree of float arrays.
        step_size: :math:`\eta`.
        weight: w, a scalar or an array that broadcasts with each leaf of the same rank.

    Returns:
        Like ``v``.

    >>> lasso(jnp.array([3.0, -0.5]), 2.0, weight=0.5).tolist()
    [2.0, -0.0]
    """
    return jax.tree.map(lambda v: _shrink(v, step_size * weight), v)


def non_negative_lasso(v: PyTree, step_size: Any = 1.0, *, weight: Any = 1.0) -> PyTree:
    r"""Of :math:`w \|x\|_1` where :math:`x \ge 0`.

    Args:
        v, step_size, weight: see :func:`lasso`.

    Returns:
        Like ``v``.

    >>> non_negative_lasso(jnp.array([3.0, -3.0])).tolist()
    [2.0, 0.0]
    """
    return jax.tree.map(lambda v: jax.nn.relu(v - step_size * weight), v)


def elastic_net(
    v: PyTree, step_size: Any = 1.0, *, weight: Any = 1.0, square_weight: Any = 1.0
) -> PyTree:
    r"""Of :math:`w \|x\|_1 + \tfrac{w_2}{2} \|x\|_2^2`.

    Args:
        v, step_size, weight: see :func:`lasso`.
        square_weight: :math:`w_2`.

    Returns:
        Like ``v``.

    >>> elastic_net(jnp.array([3.0, -3.0])).tolist()
    [1.0, -1.0]
    """
    scale = 1 / (1 + step_size * square_weight)
    return jax.tree.map(lambda v: scale * _shrink(v, step_size * weight), v)


def ridge(v: PyTree, step_size: Any = 1.0, *, weight: Any = 1.0) -> PyTree:
    r"""Of :math:`\tfrac{w}{2} \|x\|_2^2`.

    Args:
        v, step_size, weight: see :func:`lasso`.

    Returns:
        Like ``v``.

    >>> ridge(jnp.array([3.0, -3.0]), weight=2.0).tolist()
    [1.0, -1.0]
    """
    return jax.tree.map(lambda v: v / (1 + step_size * weight), v)


def non_negative_ridge(v: PyTree, step_size: Any = 1.0, *, weight: Any = 1.0) -> PyTree:
    r"""Of :math:`\tfrac{w}{2} \|x\|_2^2` where :math:`x \ge 0`.

    Args:
        v, step_size, weight: see :func:`lasso`.

    Returns:
        Like ``v``.

    >>> non_negative_ridge(jnp.array([3.0, -3.0]), weight=2.0).tolist()
    [1.0, 0.0]
    """
    return jax.tree.map(lambda v: jax.nn.relu(v) / (1 + step_size * weight), v)


def group_lasso(
    v: PyTree, step_size: Any = 1.0, *, weight: Any = 1.0, axis: int | tuple[int, ...] | None = None
) -> PyTree:
    r"""Of :math:`w \sum_g \|x_g\|_2`: whole groups shrink, or vanish.

    Args:
        v, step_size: see :func:`lasso`.
        weight: w, a scalar.
        axis: the axes that a group spans; None makes each leaf one group. Rows of a matrix are
            groups with ``axis=1``.

    Returns:
        Like ``v``; its derivative at a group of zeros is zero.

    >>> group_lasso(jnp.array([[6.0, 8.0], [0.3, 0.4]]), 5.0, axis=1).tolist()
    [[3.0, 4.0], [0.0, 0.0]]

    References:
        M. Yuan, Y. Lin, "Model Selection and Estimation in Regression with Grouped Variables",
        J. R. Stat. Soc. B 2006
    """

    def leaf(v):
        norm = safe_norm(v, axis=axis, keepdims=True)
        ratio = step_size * weight / jnp.where(norm > 0, norm, 1)
        return v * jax.nn.relu(1 - jnp.where(norm > 0, ratio, 1))

    return jax.tree.map(leaf, v)


def nuclear(v: PyTree, step_size: Any = 1.0, *, weight: Any = 1.0) -> PyTree:
    r"""Of :math:`w \|X\|_*`: the singular values are soft-thresholded.

    Args:
        v: pytree of matrices, shape ``[rows, cols]``.
        step_size: :math:`\eta`.
        weight: w, a scalar.

    Returns:
        Like ``v``. Its derivative is right where singular values coincide, the removed ones above
        all, where that of the decomposition is not finite.

    >>> nuclear(jnp.diag(jnp.array([3.0, 0.5]))).round(4).tolist()
    [[2.0, 0.0], [0.0, 0.0]]

    References:
        J. Cai, E. Candes, Z. Shen, "A Singular Value Thresholding Algorithm for Matrix
        Completion", SIAM J. Optim. 2010, arXiv:0810.3286
    """
    return jax.tree.map(lambda x: _threshold_values(x, jnp.asarray(step_size * weight, x.dtype)), v)


@jax.custom_jvp
def _threshold_values(x, threshold):
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    return (u * jax.nn.relu(s - threshold)[None, :]) @ vt


@_threshold_values.defjvp
def _threshold_values_jvp(primals, tangents):
    """Divided differences of the threshold, on the symmetric and on the skew part."""
    (x, threshold), (dx, dthreshold) = primals, tangents
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    f, slope = jax.nn.relu(s - threshold), (s > threshold).astype(s.dtype)
    minus, plus = s[:, None] - s[None, :], s[:, None] + s[None, :]
    close = jnp.abs(minus) <= 8 * jnp.finfo(s.dtype).eps * s[0]
    same = 0.5 * (slope[:, None] + slope[None, :])
    symmetric = jnp.where(close, same, (f[:, None] - f[None, :]) / jnp.where(close, 1, minus))
    skew = (f[:, None] + f[None, :]) / jnp.where(plus > 0, plus, 1)
    ratio = f / jnp.where(s > 0, s, 1)
    z = u.T @ dx @ vt.T
    core = symmetric * 0.5 * (z + z.T) + skew * 0.5 * (z - z.T)
    left = (dx @ vt.T - u @ z) * ratio[None, :]  # outside of the columns of u
    right = ratio[:, None] * (u.T @ dx - z @ vt)  # outside of the rows of vt
    kept = (u * slope[None, :]) @ vt
    y = (u * f[None, :]) @ vt
    return y, u @ core @ vt + left @ vt + u @ right - dthreshold * kept


def from_projection(projection: Callable[[PyTree], PyTree]) -> Callable[..., PyTree]:
    """Makes the proximal operator of a set's indicator: the projection, whatever the step.

    Args:
        projection: ``projection(v)``.

    Returns:
        ``prox(v, step_size)``.

    >>> float(from_projection(lambda v: jnp.clip(v, 0.0, 1.0))(3.0, 0.1))
    1.0
    """

    def prox(v, step_size=1.0):
        del step_size
        return projection(v)

    return prox
