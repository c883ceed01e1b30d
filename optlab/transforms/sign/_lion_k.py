"""Lion-K: sign momentum with the sign replaced by the subgradient of any convex function."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import wide_dtype
from optlab._checks import check_range
from optlab.transforms.sign._kappas import Kappa, get_kappa, l1, l2

__all__ = ["ScaleByLionKState", "lion_k", "normalized_momentum", "scale_by_lion_k", "signum"]


class ScaleByLionKState(NamedTuple):
    """State of :func:`scale_by_lion_k`: one moment, 4 bytes per float32 parameter."""

    mu: optax.Updates  # like params, dtype=mu_dtype or the leaf's


def scale_by_lion_k(
    kappa: Kappa | str = "l1", *, b1: float = 0.9, b2: float = 0.99, mu_dtype: Any | None = None
) -> optax.GradientTransformation:
    r"""Replaces the gradient by a subgradient of kappa at an interpolated momentum.

    .. math::
        u_t = -\partial \kappa\big(-(\beta_1 m_{t-1} + (1 - \beta_1) g_t)\big), \qquad
        m_t = \beta_2 m_{t-1} + (1 - \beta_2) g_t

    The signs inside matter only for a kappa that is not even; all that optlab ships are.

    Args:
        kappa: the convex function, or its text: ``"l1"`` is Lion's sign. See
            :mod:`optlab.transforms.sign`.
        b1: weight of the momentum in the update, in [0, 1].
        b2: decay of the momentum, in [0, 1].
        mu_dtype: dtype in which the momentum is stored; None keeps the leaf's.

    Returns:
        A transformation; its updates have the gradients' shapes and dtypes. NaN and inf propagate.

    Raises:
        ValueError: if ``kappa``, ``b1`` or ``b2`` is out of range.

    >>> tx = scale_by_lion_k("l1")
    >>> updates, _ = tx.update({"w": jnp.array([3.0, -0.1])}, tx.init({"w": jnp.zeros(2)}))
    >>> updates["w"].tolist()
    [1.0, -1.0]

    References:
        L. Chen, B. Liu, K. Liang, Q. Liu, "Lion Secretly Solves Constrained Optimization: As
        Lyapunov Predicts", ICLR 2024, arXiv:2310.05898

    Differs from the paper: the momentum has the gradient's sign, as in optax; the paper's is its
    negative.
    """
    kappa = get_kappa(kappa)
    check_range("b1", b1, 0.0, 1.0, closed="[]")
    check_range("b2", b2, 0.0, 1.0, closed="[]")

    def init(params):
        return ScaleByLionKState(mu=optax.tree.zeros_like(params, dtype=mu_dtype))

    def update(updates, state, params=None):
        del params

        def interpolate(b):
            def leaf(m, g):
                dtype = wide_dtype(g)
                return b * m.astype(dtype) + (1.0 - b) * g.astype(dtype)

            return jax.tree.map(leaf, state.mu, updates)

        direction = kappa.subgradient(jax.tree.map(jnp.negative, interpolate(b1)))
        new_updates = jax.tree.map(lambda g, u: -u.astype(g.dtype), updates, direction)
        mu = jax.tree.map(lambda m, new: new.astype(m.dtype), state.mu, interpolate(b2))
        return new_updates, ScaleByLionKState(mu=mu)

    return optax.GradientTransformation(init, update)


def lion_k(
    learning_rate: optax.ScalarOrSchedule,
    kappa: Kappa | str = "l1",
    *,
    b1: float = 0.9,
    b2: float = 0.99,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | None = None,
    mu_dtype: Any | None = None,
) -> optax.GradientTransformation:
    r"""Lion-K with decoupled weight decay, which makes it a method for constrained problems.

    .. math::
        x_t = x_{t-1} - \eta (u_t + \lambda x_{t-1}) \qquad\text{minimises}\qquad
        f(x) + \tfrac{1}{\lambda} \kappa^*(\lambda x)

    With ``"l1"`` it is Lion, and stays in :math:`\|x\|_\infty \le 1/\lambda`; with ``"nuclear"`` it
    is Muon with decay, and stays in the spectral ball. From outside its constraint set the distance
    to it falls by :math:`1 - \eta\lambda` a step or more, whatever the gradients; inside, a
    Lyapunov function falls: see :func:`optlab.transforms.sign.lion_k_lyapunov`.

    An m x n leaf costs m n numbers of state: one moment.

    Args:
        learning_rate: step size, or a schedule of the step count. For the sign take 3 to 10 times
            less than for AdamW, and as much more decay: :func:`optlab.schedules.lion_from_adamw`.
        kappa: see :func:`scale_by_lion_k`.
        b1: see :func:`scale_by_lion_k`.
        b2: see :func:`scale_by_lion_k`.
        weight_decay: decoupled, multiplied by the learning rate, or a schedule of it;
            :math:`1/\lambda` is the size of the constraint set.
        mask: pytree of bools, or a function of params giving one: where to decay.
        mu_dtype: see :func:`scale_by_lion_k`.

    Returns:
        A transformation; its ``update`` needs ``params``.

    Raises:
        ValueError: if ``kappa``, ``b1``, ``b2`` or ``weight_decay`` is out of range.

    >>> params = {"w": jnp.ones(3)}
    >>> tx = lion_k(0.1, "l2")
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> bool((updates["w"] < 0).all())
    True

    References:
        L. Chen, B. Liu, K. Liang, Q. Liu, "Lion Secretly Solves Constrained Optimization: As
        Lyapunov Predicts", ICLR 2024, arXiv:2310.05898;
        X. Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023,
        arXiv:2302.06675; L. Chen, J. Li, Q. Liu, "Muon Optimizes Under Spectral Norm Constraints",
        2025, arXiv:2506.15054

    Differs from the paper: the decay uses the old iterate, as Lion's released code does; the
    paper's analysis uses the new one, which is the same step with :math:`\eta / (1 - \eta\lambda)`
    for :math:`\eta`.
    """
    check_range("weight_decay", weight_decay, 0.0, float("inf"))
    return optax.chain(
        scale_by_lion_k(kappa, b1=b1, b2=b2, mu_dtype=mu_dtype),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def signum(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | None = None,
    mu_dtype: Any | None = None,
) -> optax.GradientTransformation:
    r"""The sign of a moving average of gradients.

    It is :func:`lion_k` with ``"l1"`` and :math:`\beta_1 = \beta_2`.

    Args:
        learning_rate: step size, or a schedule of the step count.
        b1: decay of the momentum, in [0, 1].
        weight_decay: see :func:`lion_k`.
        mask: see :func:`lion_k`.
        mu_dtype: see :func:`lion_k`.

    Returns:
        A transformation; its ``update`` needs ``params``.

    >>> params = {"w": jnp.array([2.0, -2.0])}
    >>> tx = signum(0.5)
    >>> tx.update(params, tx.init(params), params)[0]["w"].tolist()
    [-0.5, 0.5]

    References:
        J. Bernstein, Y.-X. Wang, K. Azizzadenesheli, A. Anandkumar, "signSGD: Compressed
        Optimisation for Non-Convex Problems", ICML 2018, arXiv:1802.04434; Lion-K: arXiv:2310.05898

    Differs from optax.signum: decoupled decay, hence the constraint; the same direction without it.
    """
    return lion_k(
        learning_rate, l1(), b1=b1, b2=b1, weight_decay=weight_decay, mask=mask, mu_dtype=mu_dtype
    )


def normalized_momentum(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    global_norm: bool = False,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | None = None,
    mu_dtype: Any | None = None,
) -> optax.GradientTransformation:
    r"""A moving average of gradients, brought to unit norm.

    It is :func:`lion_k` with ``"l2"`` and :math:`\beta_1 = \beta_2`.

    Args:
        learning_rate: length of a step, or a schedule of the step count.
        b1: decay of the momentum, in [0, 1].
        global_norm: one norm for the whole pytree, as in the paper, instead of one a leaf.
        weight_decay: see :func:`lion_k`.
        mask: see :func:`lion_k`.
        mu_dtype: see :func:`lion_k`.

    Returns:
        A transformation; its ``update`` needs ``params``.

    >>> params = {"w": jnp.array([3.0, -4.0])}
    >>> tx = normalized_momentum(1.0)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> bool(jnp.allclose(updates["w"], jnp.array([-0.6, 0.8])))
    True

    References:
        A. Cutkosky, H. Mehta, "Momentum Improves Normalized SGD", ICML 2020, arXiv:2002.03305;
        Lion-K: arXiv:2310.05898

    Differs from the paper: decoupled decay is offered, and the norm is each leaf's own by default.
    """
    return lion_k(
        learning_rate,
        l2(global_norm=global_norm),
        b1=b1,
        b2=b1,
        weight_decay=weight_decay,
        mask=mask,
        mu_dtype=mu_dtype,
    )
