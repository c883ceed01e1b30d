"""AuON: momentum, divided by the root mean square of a hyperbolic cosine."""

from typing import Any

import jax.numpy as jnp
import optax

from optlab._checks import check_range
from optlab._sharding import gathered
from optlab.linalg import newton_schulz, safe_norm
from optlab.transforms.matrix._momentum import scale_by_momentum

__all__ = ["auon", "scale_by_auon"]

_MAX_GAMMA = 40.0  # beyond it the squared cosine overflows float32


def scale_by_auon(
    *,
    b1: float = 0.95,
    gamma: float = 1.5,
    unit_norm: bool = False,
    ns_steps: int | None = None,
    mu_dtype: Any | None = None,
) -> optax.GradientTransformation:
    r"""Divides a Nesterov momentum by what the cosine of its entries averages to.

    .. math::
        m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad
        u_t = \beta_1 m_t + (1 - \beta_1) g_t, \quad
        r_t = \sqrt{\operatorname{mean} \cosh^2(\gamma u_t / \|u_t\|_F)}

    and the update is :math:`u_t / r_t`, leaf by leaf. As the argument of the cosine has norm
    :math:`\gamma`, :math:`r_t` lies between 1 and :math:`\cosh \gamma`; on N entries of like size
    it is near :math:`1 + \gamma^2 / 2N`. Large leaves thus get plain momentum, unless ``unit_norm``
    is set: then the update is :math:`u_t / (r_t \|u_t\|_F)`, of spectral norm below one.

    Args:
        b1: decay of the momentum, in [0, 1).
        gamma: :math:`\gamma` in [0, 40]; zero makes :math:`r_t` one.
        unit_norm: divide by the Frobenius norm too.
        ns_steps: Newton-Schulz steps that bring the singular values of :math:`u_t` towards one
            before the division, on the last two axes; vectors and scalars are left out. None takes
            no step.
        mu_dtype: dtype in which the momentum is stored; None keeps the leaf's.

    Returns:
        A transformation; its updates have the gradients' shapes and dtypes. NaN and inf propagate.

    Raises:
        ValueError: if an argument is out of range.

    >>> tx = scale_by_auon(b1=0.0, unit_norm=True)
    >>> updates, _ = tx.update({"w": jnp.full((4, 4), 7.0)}, tx.init({"w": jnp.zeros((4, 4))}))
    >>> round(float(updates["w"][0, 0]), 3)  # 1 / 4 / cosh(1.5 / 4)
    0.233

    References:
        D. Maity, "AuON: A Linear-time Alternative to Orthogonal Momentum Updates", 2025,
        arXiv:2509.24320

    Differs from the paper: its first version, "... to Semi-Orthogonal Momentum Updates", divides by
    the Frobenius norm, and its bound of the spectral norm needs that; set ``unit_norm`` for it. The
    default is the released code, in which nothing bounds the spectral norm. Differs from that code:
    it adds 1e-7 to the norm and 1e-8 to r.
    """
    check_range("gamma", gamma, 0.0, _MAX_GAMMA, closed="[]")
    check_range("ns_steps", ns_steps, 1, float("inf"))

    @gathered
    def orthogonalized(u):
        return newton_schulz(u, steps=ns_steps)

    def direction(u):
        if ns_steps is not None and u.ndim > 1:
            u = orthogonalized(u)
        norm = safe_norm(u)
        unit = u / jnp.where(norm > 0, norm, 1)
        root = jnp.sqrt(jnp.mean(jnp.cosh(gamma * unit) ** 2))
        return (unit if unit_norm else u) / root

    return scale_by_momentum(direction, b1=b1, nesterov=True, mu_dtype=mu_dtype)


def auon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.95,
    gamma: float = 1.5,
    unit_norm: bool = False,
    weight_decay: float = 0.0,
    mask: Any | None = None,
    mu_dtype: Any | None = None,
) -> optax.GradientTransformation:
    """AuON with decoupled weight decay: see :func:`scale_by_auon`.

    An m x n leaf costs m n numbers of state: one moment. Embeddings, heads and vectors are usually
    left to Adam: see :func:`hidden_matrix_labels`.

    Args:
        learning_rate: step size, or a schedule of the step count; 0.24 in the released code, 0.08
            in its examples.
        b1: see :func:`scale_by_auon`.
        gamma: see :func:`scale_by_auon`.
        unit_norm: see :func:`scale_by_auon`.
        weight_decay: decoupled, multiplied by the learning rate.
        mask: pytree of bools, or a function of params giving one: where to decay.
        mu_dtype: see :func:`scale_by_auon`.

    Returns:
        A transformation; its ``update`` needs ``params``.

    Raises:
        ValueError: if an argument is out of range.

    >>> params = {"w": jnp.ones((2, 2))}
    >>> tx = auon(0.1)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> bool((updates["w"] < 0).all())
    True

    References:
        D. Maity, "AuON: A Linear-time Alternative to Orthogonal Momentum Updates", 2025,
        arXiv:2509.24320
    """
    return optax.chain(
        scale_by_auon(b1=b1, gamma=gamma, unit_norm=unit_norm, mu_dtype=mu_dtype),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
