"""Methods that scale by a sum or an average of squares, in eight bits."""

import optax

from optlab.transforms.quantized._fused import FusedTransformation, fuse
from optlab.transforms.quantized._rules import CodecRule, Where

__all__ = ["adagrad8bit", "rmsprop8bit"]


def rmsprop8bit(
    learning_rate: optax.ScalarOrSchedule,
    decay: float = 0.9,
    eps: float = 1e-8,
    initial_scale: float = 0.0,
    *,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: float | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    codec: CodecRule = "power8",
    where: Where | None = None,
    min_size: int | None = None,
    shards: int | None = None,
    seed: int | None = None,
) -> FusedTransformation:
    """RMSProp with its averages in eight bits: 1 byte of state a parameter, not 4.

    It is :func:`optax.rmsprop` under :func:`quantize_states`, and its ``step`` works in place. With
    ``centered`` its two averages stay in float32, as their difference, which divides, would turn
    negative where they are rounded.

    Args:
        learning_rate: step size, or a schedule of the step count.
        decay, eps, initial_scale, eps_in_sqrt, centered, momentum, nesterov, bias_correction: see
            :func:`optax.rmsprop`.
        codec, where, min_size, shards, seed: see :func:`quantize_states`.

    Returns:
        A transformation with a ``step``: see :func:`optlab.transforms.quantized.fused`.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((64, 256))}
    >>> rmsprop8bit(1e-3).init(params).inner[0].nu["w"].code.dtype
    dtype('uint8')

    References:
        T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise
        Quantization", ICLR 2022, arXiv:2110.02861

    Differs from bitsandbytes: the average of squares has no signs, so no half of the codes is lost;
    ``eps`` is optax's, inside the root unless ``eps_in_sqrt`` is unset.
    """

    def make(params):
        del params
        return optax.rmsprop(
            learning_rate,
            decay,
            eps,
            initial_scale,
            eps_in_sqrt,
            centered,
            momentum,
            nesterov,
            bias_correction,
        )

    return fuse(make, codec, by="entry", where=where, min_size=min_size, shards=shards, seed=seed)


def adagrad8bit(
    learning_rate: optax.ScalarOrSchedule,
    initial_accumulator_value: float = 0.1,
    eps: float = 1e-7,
    *,
    codec: CodecRule = "power8",
    where: Where | None = None,
    min_size: int | None = None,
    shards: int | None = None,
    seed: int | None = None,
) -> FusedTransformation:
    """Adagrad with its sum of squares in eight bits: 1 byte of state a parameter, not 4.

    It is :func:`optax.adagrad` under :func:`quantize_states`, and its ``step`` works in place. What
    a step adds to a large sum is less than half a code: give a ``seed``, and it counts in the mean.

    Args:
        learning_rate: step size, or a schedule of the step count.
        initial_accumulator_value, eps: see :func:`optax.adagrad`.
        codec, where, min_size, shards, seed: see :func:`quantize_states`.

    Returns:
        A transformation with a ``step``: see :func:`optlab.transforms.quantized.fused`.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((64, 256))}
    >>> adagrad8bit(1e-2).init(params).inner[0].sum_of_squares["w"].code.dtype
    dtype('uint8')

    References:
        T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise
        Quantization", ICLR 2022, arXiv:2110.02861

    Differs from bitsandbytes: the sum has no signs, so no half of the codes is lost.
    """

    def make(params):
        del params
        return optax.adagrad(learning_rate, initial_accumulator_value, eps)

    return fuse(make, codec, by="entry", where=where, min_size=min_size, shards=shards, seed=seed)
