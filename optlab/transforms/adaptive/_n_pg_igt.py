"""N-PG-IGT: normalised momentum that is fed with gradients at a look-ahead point."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import cast_like, value_at
from optlab._checks import check_range
from optlab.base import Params, PyTree
from optlab.linalg import global_norm
from optlab.transforms.adaptive._common import average

__all__ = ["NPgIgtState", "n_pg_igt", "n_pg_igt_lookahead"]


class NPgIgtState(NamedTuple):
    """State of :func:`n_pg_igt`: 8 bytes per float32 parameter."""

    count: jax.Array  # steps taken; shape=(), dtype=int32
    mu: optax.Updates  # average gradient, like params, dtype=mu_dtype or the leaf's
    offset: optax.Updates  # from the params to the look-ahead point, like params


def _paper_eta(count):
    return (2.0 / (count + 2.0)) ** 0.8


def n_pg_igt(
    learning_rate: optax.ScalarOrSchedule,
    *,
    eta: optax.ScalarOrSchedule | None = None,
    as_released: bool = False,
    mu_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Normalised momentum with implicit gradient transport; gradients come from a second point.

    .. math::
        \hat x_t &= x_t + \Big(\frac{1}{\eta_t} - 1\Big) (x_t - x_{t-1}), \qquad
            g_t = \nabla f(\hat x_t) \\
        m_t &= (1 - \eta_t) m_{t-1} + \eta_t g_t, \qquad
            x_{t+1} = x_t - \gamma_t\, m_t / \|m_t\|

    with one norm for the whole pytree, and :math:`m_0 = g_0`. On a quadratic, :math:`m_t` is then
    an average of the noise alone: the old gradients are transported to :math:`x_t` without bias.
    A step has two phases::

        point = n_pg_igt_lookahead(state, params)
        updates, state = tx.update(jax.grad(loss)(point), state, params)

    or one, if the ``update`` is given ``grad_fn``, such as ``jax.grad(loss)``: it then asks that
    for the gradient, and takes the gradients that it is given for their dtypes alone.

    An m x n leaf costs 2 m n numbers of state.

    Args:
        learning_rate: length :math:`\gamma_t` of a step, or a schedule of the step count; the
            paper's is :math:`2 \gamma_0 / (t + 2)`. Nothing may rescale the updates afterwards.
        eta: weight of the new gradient, in (0, 1], or a schedule of the step count; None takes the
            paper's :math:`(2 / (t + 2))^{4/5}`.
        as_released: look ahead with the last step's :math:`\eta_{t-1}`, as the released code does.
        mu_dtype: dtype in which the average gradient is stored; None keeps the leaf's.

    Returns:
        A transformation; its updates have the gradients' shapes and dtypes. A NaN or an infinity
        anywhere makes all updates NaN.

    Raises:
        ValueError: if ``eta`` is out of range, or, at trace time, if ``grad_fn`` comes without
            ``params``.

    >>> params = jnp.array([4.0])
    >>> tx = n_pg_igt(1.0)
    >>> state = tx.init(params)
    >>> gradient = jax.grad(lambda x: 0.5 * x @ x)(n_pg_igt_lookahead(state, params))
    >>> tx.update(gradient, state, params)[0].tolist()
    [-1.0]

    References:
        I. Fatkhullin, A. Barakat, A. Kireeva, N. He, "Stochastic Policy Gradient Methods: Improved
        Sample Complexity for Fisher-non-degenerate Policies", ICML 2023, arXiv:2302.01734;
        A. Cutkosky, H. Mehta, "Momentum Improves Normalized SGD", ICML 2020, arXiv:2002.03305

    Differs from the paper: it minimises.
    """
    if eta is None:
        eta = _paper_eta
    check_range("eta", eta, 0.0, 1.0, closed="(]")

    def init(params):
        return NPgIgtState(
            count=jnp.zeros((), jnp.int32),
            mu=optax.tree.zeros_like(params, dtype=mu_dtype),
            offset=optax.tree.zeros_like(params),
        )

    def update(updates, state, params=None, *, grad_fn=None, **extra):
        del extra
        if grad_fn is not None:
            if params is None:
                raise ValueError("params must be given to the update of n_pg_igt with grad_fn.")
            updates = cast_like(grad_fn(optax.apply_updates(params, state.offset)), updates)
        count = optax.safe_increment(state.count)
        weight = value_at(eta, state.count)
        mu = average(state.mu, updates, 1.0 - jnp.where(state.count == 0, 1.0, weight))
        norm = global_norm(mu)
        length = value_at(learning_rate, state.count) / jnp.where(norm == 0, 1.0, norm)
        steps = jax.tree.map(lambda m: -length * m, mu)
        ahead = 1.0 / (weight if as_released else value_at(eta, count)) - 1.0
        offset = jax.tree.map(lambda s: ahead * s, steps)
        state = NPgIgtState(count, cast_like(mu, state.mu), cast_like(offset, state.offset))
        return cast_like(steps, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def n_pg_igt_lookahead(state: PyTree, params: Params) -> Params:
    """Gives the point at which :func:`n_pg_igt` wants its next gradient.

    Args:
        state: the state of :func:`n_pg_igt`, or of a chain that holds one.
        params: the present params.

    Returns:
        The look-ahead point, like ``params``.

    >>> params = jnp.array([3.0, 4.0])
    >>> n_pg_igt_lookahead(n_pg_igt(1.0).init(params), params).tolist()
    [3.0, 4.0]

    References:
        See :func:`n_pg_igt`.
    """
    return optax.apply_updates(params, optax.tree.get(state, "offset"))
