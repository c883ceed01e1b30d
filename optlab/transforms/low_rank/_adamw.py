"""AdamW as the released low-rank optimizers have it, and as optax does."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import bias_correction
from optlab._checks import check_range

__all__ = ["adam", "adam_correction", "apply_decay_and_rate"]


def adam_correction(b1, b2, count):
    """What Adam's two bias corrections multiply an update by, at step ``count`` = 1, 2, ..."""
    return jnp.sqrt(bias_correction(b2, count)) / bias_correction(b1, count)


def adam(b1, b2, eps, mu_dtype, *, as_released) -> optax.GradientTransformation:
    r"""Adam's direction; as released, :math:`\epsilon` is added before the bias is corrected."""
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0, float("inf"))
    standard = optax.scale_by_adam(b1, b2, eps=eps, mu_dtype=mu_dtype)
    if not as_released:
        return standard

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        mu = optax.tree_utils.tree_update_moment(updates, state.mu, b1, 1)
        nu = optax.tree_utils.tree_update_moment(updates, state.nu, b2, 2)
        correction = adam_correction(b1, b2, count)

        def leaf(m, v):
            return correction.astype(v.dtype) * m.astype(v.dtype) / (jnp.sqrt(v) + eps)

        new_updates = jax.tree.map(leaf, mu, nu)
        mu = optax.tree_utils.tree_cast(mu, mu_dtype)
        return new_updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(standard.init, update)


def apply_decay_and_rate(
    learning_rate: optax.ScalarOrSchedule, weight_decay, mask: Any, *, after: bool = False
) -> optax.GradientTransformation:
    r"""The end of a chain: decoupled decay and the learning rate.

    Decay of the params that the step has already moved, as in
    :math:`x \leftarrow (1 - \eta \lambda)(x - \eta u)`, is that of the old ones with
    :math:`(1 - \eta \lambda) u` for u.
    """
    shrink = optax.identity()
    if after and callable(learning_rate):
        shrink = optax.scale_by_schedule(lambda t: 1 - weight_decay * learning_rate(t))
    elif after:
        shrink = optax.scale(1 - weight_decay * learning_rate)
    return optax.chain(
        shrink if mask is None else optax.masked(shrink, mask),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
