"""LARS with the momentum before or after the trust ratio."""

from typing import Any

import optax

from optlab._arithmetic import cast_like, wide
from optlab._checks import check_range
from optlab.transforms.adaptive._trust_ratio import scale_by_trust_ratio

__all__ = ["lars"]


def _trace(decay, nesterov, mu_dtype) -> optax.GradientTransformation:
    """``optax.trace`` with a state and updates that keep their dtypes."""
    inner = optax.trace(decay, nesterov, accumulator_dtype=mu_dtype)

    def update(updates, state, params=None):
        traced, new = inner.update(wide(updates), state, params)
        return cast_like(traced, updates), optax.TraceState(cast_like(new.trace, state.trace))

    return optax.GradientTransformation(inner.init, update)


def lars(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    popular: bool = False,
    trust_coefficient: float = 1e-3,
    weight_decay: float = 0.0,
    mask: Any | None = None,
    trust_ratio_mask: Any | None = None,
    mu_dtype: Any | None = None,
) -> optax.GradientTransformation:
    r"""Momentum SGD, each leaf rescaled to the size of its parameter.

    With :math:`g = \nabla f(x) + \lambda x` and :math:`r(y) = \tau \|x\| / \|y\|`, or 1 where a
    norm is zero, the classic and the popular form are

    .. math::
        v_t = \mu v_{t-1} + \eta\, r(g_t)\, g_t, \quad x_t = x_{t-1} - v_t
        \qquad\text{and}\qquad
        v_t = \mu v_{t-1} + g_t, \quad x_t = x_{t-1} - \eta\, r(v_t)\, v_t

    The classic one is ``optax.lars``. An m x n leaf costs m n numbers of state.

    Args:
        learning_rate: step size, or a schedule of the step count; the classic momentum remembers
            the old one.
        momentum: :math:`\mu`, in [0, 1).
        nesterov: step along :math:`\mu v_t` plus the new term instead of :math:`v_t`.
        popular: put the momentum before the ratio, as LAMB does; a step's length is then fixed.
        trust_coefficient: :math:`\tau`, positive.
        weight_decay: inside the ratio.
        mask: pytree of bools, or a function of params giving one: where to decay. The usual one
            leaves out biases and norms.
        trust_ratio_mask: the same for the ratio, which is 1 elsewhere; None takes ``mask``.
        mu_dtype: dtype in which the momentum is stored; None keeps the leaf's.

    Returns:
        A transformation; its ``update`` needs ``params``. NaN and inf propagate within a leaf.

    Raises:
        ValueError: if ``momentum`` or ``trust_coefficient`` is out of range, or, at trace time, if
            ``params`` is missing.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.array([3.0, 4.0])}
    >>> tx = lars(1.0, trust_coefficient=0.1)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> round(float(jnp.linalg.norm(updates["w"])), 4)  # a tenth of 5
    0.5

    References:
        Y. You, I. Gitman, B. Ginsburg, "Large Batch Training of Convolutional Networks", 2017,
        arXiv:1708.03888

    Differs from the paper: it divides by the norm of g, as the SimCLR code does, and not by
    :math:`\|\nabla f(x)\| + \lambda \|x\|`. Differs from optax.lars: where ``mask`` is false there
    is no ratio either, as in that code; take ``trust_ratio_mask=True`` for optax's rule.
    """
    check_range("momentum", momentum, 0.0, 1.0)
    check_range("trust_coefficient", trust_coefficient, 0.0, float("inf"), closed="()")
    ratio = scale_by_trust_ratio(
        coefficient=trust_coefficient, mask=mask if trust_ratio_mask is None else trust_ratio_mask
    )
    trace = _trace(momentum, nesterov, mu_dtype)
    rate = optax.scale_by_learning_rate(learning_rate)
    steps = (trace, ratio, rate) if popular else (ratio, rate, trace)
    return optax.chain(optax.add_decayed_weights(weight_decay, mask), *steps)
