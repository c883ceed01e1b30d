"""N-HARPG: normalised recursive momentum, corrected by Hessian-vector products."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import cast_like, value_at, wide_dtype
from optlab._checks import check_range
from optlab.base import Params, PyTree
from optlab.linalg import global_norm
from optlab.transforms.adaptive._common import average

__all__ = ["NHarpgState", "n_harpg", "n_harpg_query"]


class NHarpgState(NamedTuple):
    """State of :func:`n_harpg`: 8 bytes per float32 parameter."""

    count: jax.Array  # steps taken; shape=(), dtype=int32
    mu: optax.Updates  # estimate of the gradient, like params, dtype=mu_dtype or the leaf's
    displacement: optax.Updates  # the last step, like params


def _paper_eta(count):
    return 2.0 / (count + 2.0)


def n_harpg(
    learning_rate: optax.ScalarOrSchedule,
    *,
    eta: optax.ScalarOrSchedule | None = None,
    normalize: bool = True,
    mu_dtype: Any | None = None,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Recursive momentum that a Hessian-vector product carries from the last iterate to this one.

    .. math::
        h_t &= \nabla^2 f(b x_t + (1 - b) x_{t-1})\, (x_t - x_{t-1}), \qquad b \sim U(0, 1) \\
        m_t &= (1 - \eta_t)(m_{t-1} + h_t) + \eta_t \nabla f(x_t), \qquad
            x_{t+1} = x_t - \gamma_t\, m_t / \|m_t\|

    with one norm for the whole pytree, and :math:`m_0 = \nabla f(x_0)`. In expectation over b, h is
    exactly the change of the gradient. A step has two phases::

        point, direction = n_harpg_query(state, params, key)
        hvp = jax.jvp(jax.grad(loss), (point,), (direction,))[1]
        updates, state = tx.update(jax.grad(loss)(params), state, params, hvp=hvp)

    or one, if the ``update`` is given ``grad_fn``, such as ``jax.grad(loss)``, in the place of
    ``hvp``: the point is then drawn from ``seed`` and the step count.

    An m x n leaf costs 2 m n numbers of state.

    Args:
        learning_rate: length :math:`\gamma_t` of a step, or a schedule of the step count; the
            paper's is :math:`2 \gamma_0 / (t + 2)`, and :math:`\gamma_0 \sqrt{2 / (t + 2)}`
            without ``normalize``. Nothing may rescale the updates afterwards.
        eta: weight of the new gradient, in (0, 1], or a schedule of the step count; None takes the
            paper's :math:`2 / (t + 2)`.
        normalize: divide by the norm; without it the method is HARPG.
        mu_dtype: dtype in which the estimate is stored; None keeps the leaf's.
        seed: of the points, where ``update`` draws them.

    Returns:
        A transformation whose ``update`` needs ``hvp``, like the gradients, or ``grad_fn`` and
        ``params``; its updates have the gradients' shapes and dtypes. A NaN or an infinity anywhere
        makes all updates NaN.

    Raises:
        ValueError: if ``eta`` is out of range, or, at trace time, if ``hvp`` and ``grad_fn`` are
            missing.

    >>> params = jnp.array([4.0])
    >>> tx = n_harpg(1.0)
    >>> updates, _ = tx.update(params, tx.init(params), params, hvp=jnp.zeros(1))
    >>> updates.tolist()
    [-1.0]

    References:
        I. Fatkhullin, A. Barakat, A. Kireeva, N. He, "Stochastic Policy Gradient Methods: Improved
        Sample Complexity for Fisher-non-degenerate Policies", ICML 2023, arXiv:2302.01734

    Differs from the paper: it minimises, and the Hessian-vector product is the caller's; for a
    policy gradient it needs a score term besides the one of automatic differentiation.
    """
    if eta is None:
        eta = _paper_eta
    check_range("eta", eta, 0.0, 1.0, closed="(]")

    def init(params):
        return NHarpgState(
            count=jnp.zeros((), jnp.int32),
            mu=optax.tree.zeros_like(params, dtype=mu_dtype),
            displacement=optax.tree.zeros_like(params),
        )

    def update(updates, state, params=None, *, hvp=None, grad_fn=None, **extra):
        del extra
        if hvp is None:
            if grad_fn is None or params is None:
                raise ValueError(
                    "hvp must be given to the update of n_harpg, or grad_fn and params."
                )
            key = jax.random.fold_in(jax.random.key(seed), state.count)
            point, direction = n_harpg_query(state, params, key)
            hvp = jax.jvp(grad_fn, (point,), (direction,))[1]
        weight = jnp.where(state.count == 0, 1.0, value_at(eta, state.count))
        carried = jax.tree.map(lambda m, h: m.astype(wide_dtype(m)) + h, state.mu, hvp)
        mu = average(carried, updates, 1.0 - weight)
        norm = global_norm(mu) if normalize else 1.0
        length = value_at(learning_rate, state.count) / jnp.where(norm == 0, 1.0, norm)
        steps = jax.tree.map(lambda m: -length * m, mu)
        state = NHarpgState(
            count=optax.safe_increment(state.count),
            mu=cast_like(mu, state.mu),
            displacement=cast_like(steps, state.displacement),
        )
        return cast_like(steps, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def n_harpg_query(state: PyTree, params: Params, key: jax.Array) -> tuple[Params, Params]:
    """Gives the point and the direction of the Hessian-vector product of :func:`n_harpg`.

    Args:
        state: the state of :func:`n_harpg`, or of a chain that holds one.
        params: the present params.
        key: draws the point, uniformly on the segment from the last params to the present ones.

    Returns:
        The point and the direction, both like ``params``; the direction is zero before a step.

    >>> params = jnp.array([3.0, 4.0])
    >>> point, direction = n_harpg_query(n_harpg(1.0).init(params), params, jax.random.key(0))
    >>> point.tolist(), direction.tolist()
    ([3.0, 4.0], [0.0, 0.0])

    References:
        See :func:`n_harpg`.
    """
    direction = optax.tree.get(state, "displacement")
    back = jax.random.uniform(key)
    return optax.apply_updates(params, jax.tree.map(lambda d: -back * d, direction)), direction
