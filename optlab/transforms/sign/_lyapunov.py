"""The Lyapunov functions of Lion-K: certificates of descent, and a transform that records them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import wide
from optlab._checks import check_range
from optlab.base import Params, PyTree, Scalar
from optlab.transforms.sign._kappas import Kappa, get_kappa

__all__ = [
    "MonitorLyapunovState",
    "lion_k_flow",
    "lion_k_flow_lyapunov",
    "lion_k_lyapunov",
    "monitor_lyapunov",
]


def _certificate(kappa: Kappa, weight_decay: float, a: float, b: float, c: float):
    r"""The form that both Lyapunov functions have.

    .. math::
        a f(x) + \tfrac{b}{\lambda} \kappa^*(\lambda x)
            + c \big(\kappa^*(\lambda x) + \kappa(m) - \lambda \langle m, x \rangle\big)

    The last bracket is never negative (Fenchel's inequality).
    """
    conjugate = kappa.conjugate
    if weight_decay and conjugate is None:
        raise ValueError(
            f"kappa {kappa.name!r} must have a conjugate for a Lyapunov function with decay."
        )

    def lyapunov(value: Scalar, params: Params, momentum: PyTree) -> Scalar:
        params, momentum = wide((params, momentum))
        if conjugate is None or not weight_decay:
            return a * value + c * kappa.value(momentum)
        inside = conjugate(optax.tree.scale(weight_decay, params))
        gap = inside + kappa.value(momentum) - weight_decay * optax.tree.vdot(momentum, params)
        return a * value + b / weight_decay * inside + c * gap

    return lyapunov


def lion_k_lyapunov(
    kappa: Kappa | str = "l1",
    *,
    learning_rate: float,
    b1: float = 0.9,
    b2: float = 0.99,
    weight_decay: float = 0.0,
) -> Callable[[Scalar, Params, PyTree], Scalar]:
    r"""The Lyapunov function of :func:`optlab.transforms.sign.lion_k`, in discrete time.

    .. math::
        H(x, m) = f(x) + \tfrac{1}{\lambda} \kappa^*(\lambda x)
            + \frac{\epsilon \beta_1}{(1 - \beta_2) + \epsilon \lambda (1 - \beta_1)}
              \big(\kappa^*(\lambda x) + \kappa(m) - \lambda \langle m, x \rangle\big),
        \qquad \epsilon = \frac{\eta}{1 - \eta \lambda}

    For an L-smooth f and :math:`\beta_1 \le \beta_2` every step satisfies

    .. math:: H(x_{t+1}, m_{t+1}) \le H(x_t, m_t) + \tfrac{L}{2} \|x_{t+1} - x_t\|_2^2,

    so that H falls until the iterates circle the solution at the scale of a step; it is inf outside
    the constraint set.

    Args:
        kappa: as for :func:`optlab.transforms.sign.lion_k`; with decay it must have a conjugate.
        learning_rate: the constant step size :math:`\eta`, with :math:`\eta\lambda < 1`.
        b1: as for :func:`optlab.transforms.sign.lion_k`.
        b2: as for :func:`optlab.transforms.sign.lion_k`; the bound needs b1 <= b2.
        weight_decay: as for :func:`optlab.transforms.sign.lion_k`; at zero H is
            :math:`f + \epsilon \beta_1 \kappa(m) / (1 - \beta_2)`.

    Returns:
        A function of ``(value, params, momentum)``: f at the params (shape ``()``), the params, and
        the paper's momentum, which is **minus** the ``mu`` of optlab's state; it returns H, shape
        ``()``.

    Raises:
        ValueError: if a hyperparameter is out of range, or ``kappa`` lacks its conjugate.

    >>> lyapunov = lion_k_lyapunov("l1", learning_rate=0.1, weight_decay=1.0)
    >>> outside, momentum = jnp.array([2.0]), jnp.array([0.0])
    >>> float(lyapunov(jnp.array(2.0), outside, momentum))
    inf

    References:
        L. Chen, B. Liu, K. Liang, Q. Liu, "Lion Secretly Solves Constrained Optimization: As
        Lyapunov Predicts", ICLR 2024, arXiv:2310.05898, section 4

    Differs from the paper: written for the step with the old iterate in the decay, by the change of
    step size above.
    """
    if callable(learning_rate):
        raise ValueError("learning_rate must be a number: with a schedule H need not fall.")
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("learning_rate", learning_rate, 0.0, float("inf"))
    check_range("weight_decay", weight_decay, 0.0, float("inf"))
    check_range("learning_rate * weight_decay", learning_rate * weight_decay, 0.0, 1.0)
    step = learning_rate / (1 - learning_rate * weight_decay)
    c = step * b1 / ((1 - b2) + step * weight_decay * (1 - b1))
    return _certificate(get_kappa(kappa), weight_decay, 1.0, 1.0, c)


def lion_k_flow_lyapunov(
    kappa: Kappa | str = "l1",
    *,
    alpha: float = 1.0,
    gamma: float = 1.0,
    epsilon: float = 0.5,
    weight_decay: float = 0.0,
) -> Callable[[Scalar, Params, PyTree], Scalar]:
    r"""The Lyapunov function of :func:`lion_k_flow`, in continuous time.

    .. math::
        H(x, m) = \alpha f(x) + \tfrac{\gamma}{\lambda} \kappa^*(\lambda x)
            + \frac{1 - \epsilon\gamma}{1 + \epsilon\lambda}
              \big(\kappa^*(\lambda x) + \kappa(m) - \lambda \langle m, x \rangle\big)

    never increases along the flow. Outside the set where :math:`\kappa^*(\lambda x)` is finite H is
    inf, and the distance to that set decays as :math:`e^{-\lambda t}`.

    Args:
        kappa: as for :func:`lion_k_flow`; with decay it must have a conjugate.
        alpha: weight of the gradient, not negative.
        gamma: damping of the momentum, not negative.
        epsilon: how far the update looks ahead, with epsilon * gamma <= 1.
        weight_decay: strength of the decay, not negative.

    Returns:
        A function of ``(value, params, momentum)``, as for :func:`lion_k_lyapunov`.

    Raises:
        ValueError: if a hyperparameter is out of range, or ``kappa`` lacks its conjugate.

    >>> lyapunov = lion_k_flow_lyapunov("l1", weight_decay=0.0)
    >>> float(lyapunov(jnp.array(2.0), jnp.array([1.0]), jnp.array([4.0])))  # 2 + (1 - 0.5) * 4
    4.0

    References:
        L. Chen, B. Liu, K. Liang, Q. Liu, "Lion Secretly Solves Constrained Optimization: As
        Lyapunov Predicts", ICLR 2024, arXiv:2310.05898, section 3
    """
    for name, value in {"alpha": alpha, "gamma": gamma, "epsilon": epsilon}.items():
        check_range(name, value, 0.0, float("inf"))
    check_range("weight_decay", weight_decay, 0.0, float("inf"))
    check_range("epsilon * gamma", epsilon * gamma, 0.0, 1.0, closed="[]")
    c = (1 - epsilon * gamma) / (1 + epsilon * weight_decay)
    return _certificate(get_kappa(kappa), weight_decay, alpha, gamma, c)


def lion_k_flow(
    kappa: Kappa | str = "l1",
    *,
    alpha: float = 1.0,
    gamma: float = 1.0,
    epsilon: float = 0.5,
    weight_decay: float = 0.0,
) -> Callable[[Params, PyTree, PyTree], tuple[PyTree, PyTree]]:
    r"""The differential equation that Lion-K discretises.

    .. math::
        \dot m = -\alpha \nabla f(x) - \gamma m, \qquad
        \dot x = \nabla\kappa\big(m - \epsilon(\alpha \nabla f(x) + \gamma m)\big) - \lambda x

    Lion-K with step :math:`\eta` is its Euler step of length :math:`\eta` at
    :math:`\alpha = \gamma = (1 - \beta_2) / \eta` and
    :math:`\epsilon = \eta (1 - \beta_1) / (1 - \beta_2)`.

    Args:
        kappa: the convex function, or its text.
        alpha: weight of the gradient.
        gamma: damping of the momentum.
        epsilon: how far the update looks ahead.
        weight_decay: strength of the decay.

    Returns:
        A function ``(params, momentum, grads) -> (d params / dt, d momentum / dt)``.

    >>> flow = lion_k_flow("l1")
    >>> flow(jnp.array([1.0]), jnp.array([0.0]), jnp.array([2.0]))[0].tolist()
    [-1.0]

    References:
        L. Chen, B. Liu, K. Liang, Q. Liu, "Lion Secretly Solves Constrained Optimization: As
        Lyapunov Predicts", ICLR 2024, arXiv:2310.05898, section 3
    """
    kappa = get_kappa(kappa)

    def field(params, momentum, grads):
        m_dot = jax.tree.map(lambda m, g: -alpha * g - gamma * m, momentum, grads)
        ahead = jax.tree.map(lambda m, d: m + epsilon * d, momentum, m_dot)
        x_dot = jax.tree.map(lambda u, x: u - weight_decay * x, kappa.subgradient(ahead), params)
        return x_dot, m_dot

    return field


class MonitorLyapunovState(NamedTuple):
    """State of :func:`monitor_lyapunov`."""

    lyapunov: jax.Array  # H(x, m) at the last update's inputs; shape=(), dtype=float32
    inner: Any  # the state of the monitored transformation


def monitor_lyapunov(
    inner: optax.GradientTransformation, lyapunov: Callable[[Scalar, Params, PyTree], Scalar]
) -> optax.GradientTransformationExtraArgs:
    """Records a Lyapunov function of Lion-K at every update, and changes nothing else.

    Args:
        inner: a transformation with exactly one field ``mu`` in its state, as
            :func:`optlab.transforms.sign.lion_k` has.
        lyapunov: what :func:`lion_k_lyapunov` returns for the same hyperparameters.

    Returns:
        A transformation whose ``update`` also needs ``params`` and ``value``, the loss at these
        params; read ``state.lyapunov`` after it. Mini-batch losses make H noisy: it is a
        certificate for full batches.

    Raises:
        ValueError: at trace time, if ``params`` or ``value`` is missing, or ``inner`` has no such
            mu.

    >>> from optlab import lion_k
    >>> tx = monitor_lyapunov(lion_k(0.1, "l2"), lion_k_lyapunov("l2", learning_rate=0.1))
    >>> x = jnp.array([3.0, 4.0])
    >>> _, state = tx.update(x, tx.init(x), x, value=0.5 * x @ x)
    >>> float(state.lyapunov)
    12.5

    References:
        See :func:`lion_k_lyapunov`.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params):
        return MonitorLyapunovState(lyapunov=jnp.zeros((), jnp.float32), inner=inner.init(params))

    def update(updates, state, params=None, *, value=None, **extra):
        if params is None or value is None:
            raise ValueError("params and value must be given to the update of monitor_lyapunov.")
        found = [mu for _, mu in optax.tree.get_all_with_path(state.inner, "mu")]
        if [jax.tree.structure(mu) for mu in found] != [jax.tree.structure(params)]:
            raise ValueError("inner must have one field mu like the params in its state.")
        momentum = jax.tree.map(jnp.negative, found[0])
        recorded = jnp.asarray(lyapunov(value, params, momentum), jnp.float32)
        updates, inner_state = inner.update(updates, state.inner, params, value=value, **extra)
        return updates, MonitorLyapunovState(lyapunov=recorded, inner=inner_state)

    return optax.GradientTransformationExtraArgs(init, update)
