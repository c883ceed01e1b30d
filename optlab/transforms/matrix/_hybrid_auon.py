"""Hybrid-AuON: AuON on orthogonalised momentum."""

from typing import Any

import optax

from optlab.transforms.matrix._auon import scale_by_auon

__all__ = ["hybrid_auon"]


def hybrid_auon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.95,
    gamma: float = 1.5,
    unit_norm: bool = False,
    ns_steps: int = 5,
    weight_decay: float = 0.0,
    mask: Any | None = None,
    mu_dtype: Any | None = None,
) -> optax.GradientTransformation:
    r"""AuON after some Newton-Schulz steps: see :func:`scale_by_auon`.

    .. math::
        x_t = x_{t-1} - \eta \big(\operatorname{NS}(u_t) / r_t + \lambda x_{t-1}\big)

    where :math:`r_t` is that of :math:`\operatorname{NS}(u_t)`, close to one: it is Muon without a
    factor for the shape. The last two axes of a leaf are its matrices, the others count them: in
    Flax the inputs and outputs of a dense layer, of each position of a convolution's kernel, and of
    each of several stacked layers. An m x n leaf costs m n numbers of state: one moment.

    Args:
        learning_rate: step size, or a schedule of the step count.
        b1: see :func:`scale_by_auon`.
        gamma: see :func:`scale_by_auon`.
        unit_norm: see :func:`scale_by_auon`.
        ns_steps: Newton-Schulz steps, one or more.
        weight_decay: decoupled, multiplied by the learning rate.
        mask: pytree of bools, or a function of params giving one: where to decay.
        mu_dtype: see :func:`scale_by_auon`.

    Returns:
        A transformation; its ``update`` needs ``params``.

    Raises:
        ValueError: if an argument is out of range.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.diag(jnp.array([3.0, 1.0]))}
    >>> tx = hybrid_auon(1.0)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> bool(jnp.abs(updates["w"]).max() < 1.0)
    True

    References:
        D. Maity, "AuON: A Linear-time Alternative to Orthogonal Momentum Updates", 2025,
        arXiv:2509.24320

    Differs from the paper: five steps by default, as in the released code; the abstract of the
    first version speaks of one. Differs from the released code: see :func:`scale_by_auon`; in
    torch's layout the last two axes of a convolution's kernel are its height and width.
    """
    return optax.chain(
        scale_by_auon(
            b1=b1, gamma=gamma, unit_norm=unit_norm, ns_steps=ns_steps, mu_dtype=mu_dtype
        ),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
