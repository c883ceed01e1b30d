"""Parameters in bfloat16 under an optimizer in float32."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optlab.codecs import stochastic_round
from optlab.transforms.quantized import FusedTransformation

__all__ = ["in_float32"]


def in_float32(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Lets an optimizer keep bfloat16 parameters while it works in float32 itself.

    It sees parameters and gradients in float32, so its state is float32 too unless it is told
    otherwise. Its update is made such that parameter plus update is a bfloat16, one of the two
    neighbours of the exact sum, at random and right in the mean: steps far below the spacing of
    bfloat16 are then not lost (Gupta et al., 2015).

    Args:
        tx: any optimizer.

    Returns:
        The same with a ``key`` of ``jax.random`` as a further argument of ``update``, and of its
        ``step`` where it has one: see :func:`optlab.transforms.quantized.fused`.

    >>> tx = in_float32(optax.sgd(1e-4))
    >>> params = jnp.ones(3, jnp.bfloat16)
    >>> updates, _ = tx.update(params, tx.init(params), params, key=jax.random.key(0))
    >>> updates.dtype
    dtype('float32')

    References:
        S. Gupta et al., "Deep Learning with Limited Numerical Precision", ICML 2015,
        arXiv:1502.02551
    """
    inner = optax.with_extra_args_support(tx)

    def init(params):
        return inner.init(optax.tree.cast(params, jnp.float32))

    def update(updates, state, params, *, key: jax.Array, **extra: Any):
        params, updates = (optax.tree.cast(tree, jnp.float32) for tree in (params, updates))
        updates, state = inner.update(updates, state, params, **extra)
        keys = optax.tree.split_key_like(key, params)
        rounded = jax.tree.map(
            lambda p, u, k: stochastic_round(p + u, jnp.bfloat16, k).astype(jnp.float32) - p,
            params,
            updates,
            keys,
        )
        return rounded, state

    if not isinstance(tx, FusedTransformation):
        return optax.GradientTransformationExtraArgs(init, update)

    def step(params, grads, state, *, key: jax.Array, **extra: Any):
        return tx.step(params, grads, state, rounding=key, **extra)

    return FusedTransformation(init, update, step)
