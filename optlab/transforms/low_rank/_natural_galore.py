"""Natural GaLore: GaLore on gradients that an empirical Fisher matrix preconditions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import wide_dtype
from optlab._checks import check_count, check_range
from optlab.transforms.low_rank._adamw import adam, apply_decay_and_rate
from optlab.transforms.low_rank._low_rank import low_rank
from optlab.transforms.low_rank._projectors import Projector

__all__ = ["ScaleByInverseFisherState", "natural_galore", "scale_by_inverse_fisher"]

_FISHERS = ("sum", "mean")


class ScaleByInverseFisherState(NamedTuple):
    """State of :func:`scale_by_inverse_fisher`: the last s gradients, s numbers a parameter."""

    count: jax.Array  # shape=(), dtype=int32: gradients since the start, or since the last clearing
    history: optax.Updates  # [s, ...] at each leaf, dtype=float32 or the leaf's if wider


def _solve(past, g, damping, weight, include_current):
    r"""Solves with :math:`F = \delta I + w \sum_k h_k h_k^\top`, the current g added or not.

    With C the rows h and g, and :math:`(\delta I + w C C^\top) y = e` for the last unit vector e,
    :math:`C^\top y` is the solution where g is in the sum, and :math:`\delta y_s` tells how much
    the rank-one term of g shrank it. So nothing cancels, as large numbers do in Woodbury's form.
    """
    rows = jnp.concatenate([past.reshape(past.shape[0], -1), g.reshape(1, -1)])
    size, dtype = rows.shape[0], rows.dtype
    gram = weight * (rows @ rows.T)
    scale = jnp.maximum(jnp.max(jnp.diagonal(gram)), damping).astype(dtype)
    # A ridge below rounding would leave the matrix singular.
    ridge = jnp.maximum(damping / scale, 4 * size * jnp.finfo(dtype).eps).astype(dtype)
    unit = jnp.zeros(size, dtype).at[-1].set(1)
    matrix = gram / scale + ridge * jnp.eye(size, dtype=dtype)
    y = jax.scipy.linalg.solve(matrix, unit, assume_a="pos")
    shrinkage = scale if include_current else scale * ridge * y[-1]
    return (y @ rows).reshape(g.shape) / shrinkage


def scale_by_inverse_fisher(
    history: int = 20,
    damping: float = 1e-3,
    *,
    fisher: str = "sum",
    include_current: bool = True,
    clear_on_refresh: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Solves, leaf by leaf, with the damped empirical Fisher matrix of the last few gradients.

    .. math::
        u_t = \Big(\delta I + w \sum_{k} g_k g_k^\top\Big)^{-1} g_t

    over the last s gradients as vectors, by a system of s + 1 equations (Woodbury's identity).

    Args:
        history: s, the number of gradients in the sum.
        damping: :math:`\delta > 0`, in units of a squared gradient.
        fisher: ``"sum"`` for w = 1, ``"mean"`` for one over the number of gradients in the sum.
        include_current: whether :math:`g_t` is one of them; then :math:`\|u_t\| \le 1 / \|g_t\|`
            in a sum, however large the gradient.
        clear_on_refresh: forget the history when the update is called with ``refreshed=True``, as
            :func:`low_rank` does when the old gradients' coordinates have lost their meaning.

    Returns:
        A transformation; its updates have the gradients' shapes and dtypes. NaN and inf propagate.
        Damping below the rounding of the largest squared gradient is raised to it.

    Raises:
        ValueError: if an argument is out of range.

    >>> tx = scale_by_inverse_fisher(damping=1.0)
    >>> g = jnp.array([1.0, 2.0])
    >>> bool(jnp.allclose(tx.update(g, tx.init(g))[0], g / 6))
    True

    References:
        A. Das, "Natural GaLore: Accelerating GaLore for memory-efficient LLM Training and
        Fine-tuning", 2024, arXiv:2410.16029

    Differs from the paper: the same solution by another formula. In the paper's the unit matrix and
    the correction cancel, in float32 to noise once a gradient's norm is a hundred times the root of
    the damping.
    """
    check_count("history", history, 1)
    check_range("damping", damping, 0.0, float("inf"), closed="()")
    if fisher not in _FISHERS:
        raise ValueError(f"fisher must be 'sum' or 'mean', got {fisher!r}.")

    def init(params):
        def leaf(p):
            shape = (int(history), *p.shape)
            return jnp.zeros(shape, wide_dtype(p))

        return ScaleByInverseFisherState(jnp.zeros((), jnp.int32), jax.tree.map(leaf, params))

    def update(updates, state, params=None, *, refreshed=False, **extra):
        del params, extra
        fresh = refreshed if clear_on_refresh else False
        count = jnp.where(fresh, 0, state.count)
        kept = jax.tree.map(lambda past: jnp.where(fresh, 0, past), state.history)

        def solution(g, past):
            size, dtype = past.shape[0], past.dtype
            if include_current:  # then it takes the oldest one's place
                past = past.at[count % size].set(0)
            terms = jnp.clip(count + int(include_current), 1, size)
            weight = 1 / terms.astype(dtype) if fisher == "mean" else 1
            return _solve(past, g.astype(dtype), damping, weight, include_current).astype(g.dtype)

        def append(g, past):
            return past.at[count % past.shape[0]].set(g.astype(past.dtype))

        return jax.tree.map(solution, updates, kept), ScaleByInverseFisherState(
            count=optax.safe_increment(count), history=jax.tree.map(append, updates, kept)
        )

    return optax.GradientTransformationExtraArgs(init, update)


def natural_galore(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 128,
    *,
    update_interval: int = 200,
    scale: float = 0.25,
    history: int = 20,
    damping: float = 1e-3,
    fisher: str = "sum",
    include_current: bool = True,
    clear_on_refresh: bool = False,
    projector: Projector | str = "tucker",
    side: str = "short",
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    mask: Any | None = None,
    mu_dtype: Any | None = None,
    as_released: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""GaLore on natural gradients: an inverse Fisher matrix comes before Adam in the subspace.

    .. math::
        R_t = U^\top G_t, \qquad
        \tilde r_t = \Big(\delta I + \sum_k r_k r_k^\top\Big)^{-1} r_t, \qquad
        x_t = x_{t-1} - \eta \big(\alpha U \operatorname{Adam}(\tilde R_t)
        + \lambda x_{t-1}\big)

    with r = vec(R) and the sum over the last s steps. Leaves that are not projected, see
    :func:`low_rank`, get plain AdamW.

    An m x n leaf, m <= n, costs (m + (2 + s) n) r numbers of state; with side ``"both"``
    (m + n) r + (2 + s) r^2.

    Args:
        learning_rate: step size, or a schedule of the step count.
        rank: r, the dimension of the subspace.
        update_interval: steps between refreshes of the subspace.
        scale: :math:`\alpha`, of the projected leaves' updates.
        history: see :func:`scale_by_inverse_fisher`.
        damping: see :func:`scale_by_inverse_fisher`.
        fisher: see :func:`scale_by_inverse_fisher`.
        include_current: see :func:`scale_by_inverse_fisher`.
        clear_on_refresh: see :func:`scale_by_inverse_fisher`.
        projector: what picks the subspace, see :func:`galore`.
        side: see :func:`low_rank`. At a refresh the two-sided projection is diagonal but for
            rounding, of which Adam makes updates unless ``eps`` is well above it.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: decoupled, multiplied by the learning rate.
        mask: pytree of bools, or a function of params giving one: where to decay.
        mu_dtype: dtype in which the first moment is stored; None means float32, or the leaf's if
            that is wider.
        as_released: Adam and its decay as in the released code, see :func:`galore`.

    Returns:
        A transformation; its ``update`` needs ``params``.

    Raises:
        ValueError: if an argument is out of range.

    >>> params = {"w": jnp.eye(4), "b": jnp.ones(4)}
    >>> tx = natural_galore(0.1, rank=2, history=5)
    >>> tx.init(params)[0].inner[0].history["w"].shape
    (5, 4, 2)

    References:
        A. Das, "Natural GaLore: Accelerating GaLore for memory-efficient LLM Training and
        Fine-tuning", 2024, arXiv:2410.16029

    Differs from the paper: signs of singular vectors as in :func:`galore`. Differs from the
    released code: that projects both sides; its factors come from an alternating iteration, which
    for a matrix ends at the singular vectors, and its variants that learn them are left out.
    """
    direction = adam(b1, b2, eps, mu_dtype, as_released=as_released)
    natural = scale_by_inverse_fisher(
        history,
        damping,
        fisher=fisher,
        include_current=include_current,
        clear_on_refresh=clear_on_refresh,
    )
    return optax.chain(
        low_rank(
            optax.chain(natural, direction),
            projector,
            rank,
            update_interval=update_interval,
            side=side,
            scale=scale,
            fallback=direction,
        ),
        apply_decay_and_rate(learning_rate, weight_decay, mask, after=as_released),
    )
