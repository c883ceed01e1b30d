"""LAMB with the options of its released codes: no bias correction, a clipped norm, exclusions."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import bias_correction, cast_like
from optlab._checks import check_range
from optlab.transforms.adaptive._common import average
from optlab.transforms.adaptive._trust_ratio import scale_by_trust_ratio

__all__ = ["lamb"]


def _scale_by_adam(b1, b2, eps, debias, mu_dtype) -> optax.GradientTransformation:
    """Adam, with or without bias correction, in float32 or more."""

    def init(params):
        return optax.ScaleByAdamState(
            count=jnp.zeros((), jnp.int32),
            mu=optax.tree.zeros_like(params, dtype=mu_dtype),
            nu=optax.tree.zeros_like(params),
        )

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        mu = average(state.mu, updates, b1)
        nu = average(state.nu, updates, b2, power=2)
        c1, c2 = (bias_correction(b, count) if debias else 1.0 for b in (b1, b2))
        new_updates = jax.tree.map(
            lambda g, m, v: (m / c1 / (jnp.sqrt(v / c2) + eps)).astype(g.dtype), updates, mu, nu
        )
        state = optax.ScaleByAdamState(count, cast_like(mu, state.mu), cast_like(nu, state.nu))
        return new_updates, state

    return optax.GradientTransformation(init, update)


def lamb(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    debias: bool = True,
    phi: tuple[float, float] | None = None,
    weight_decay: float = 0.0,
    mask: Any | None = None,
    trust_ratio_mask: Any | None = None,
    mu_dtype: Any | None = None,
) -> optax.GradientTransformation:
    r"""Adam with decay, each leaf rescaled to the size of its parameter.

    .. math::
        x_t = x_{t-1} - \eta\, \frac{\phi(\|x_{t-1}\|)}{\|u_t\|} u_t, \qquad
        u_t = \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} + \lambda x_{t-1}

    where the ratio is 1 if :math:`\phi` or :math:`\|u_t\|` is zero. With its defaults it is
    ``optax.lamb``. An m x n leaf costs 2 m n numbers of state.

    Args:
        learning_rate: relative change of a leaf in a step, or a schedule of the step count.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        debias: correct Adam's moments for their start at zero. Without it eps counts for more.
        phi: bounds that clip the norm of the param; the PyTorch codes take (0, 10). None does not.
            A positive lower bound lets leaves that start at zero move by it.
        weight_decay: inside the ratio, multiplied by the learning rate.
        mask: pytree of bools, or a function of params giving one: where to decay. The usual one
            leaves out biases and norms.
        trust_ratio_mask: the same for the ratio, which is 1 elsewhere; None takes ``mask``.
        mu_dtype: dtype in which the first moment is stored; None keeps the leaf's.

    Returns:
        A transformation; its ``update`` needs ``params``. NaN and inf propagate within a leaf.

    Raises:
        ValueError: if ``b1``, ``b2``, ``eps`` or ``phi`` is out of range, or, at trace time, if
            ``params`` is missing.

    >>> params = {"w": jnp.array([3.0, 4.0])}
    >>> tx = lamb(0.1)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> round(float(jnp.linalg.norm(updates["w"])), 4)  # a tenth of 5
    0.5

    References:
        Y. You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
        ICLR 2020, arXiv:1904.00962

    Differs from the paper: :math:`\phi` is the identity by default, as in the authors' code.
    Differs from optax.lamb: where ``mask`` is false there is no ratio either, as in the authors'
    code; take ``trust_ratio_mask=True`` for optax's rule.
    """
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0, float("inf"), closed="()")
    return optax.chain(
        _scale_by_adam(b1, b2, eps, debias, mu_dtype),
        optax.add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(phi=phi, mask=mask if trust_ratio_mask is None else trust_ratio_mask),
        optax.scale_by_learning_rate(learning_rate),
    )
