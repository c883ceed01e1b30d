"""Sign and heavy-ball momentum in eight bits."""

from typing import Any

import optax

from optlab.transforms.quantized._fused import FusedTransformation, fuse, mask_of
from optlab.transforms.quantized._rules import CodecRule, Where

__all__ = ["lion8bit", "sgd8bit"]


def lion8bit(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.99,
    *,
    weight_decay: optax.ScalarOrSchedule = 1e-3,
    mask: Any | None = None,
    codec: CodecRule = "power8",
    where: Where | None = None,
    min_size: int | None = None,
    shards: int | None = None,
    seed: int | None = None,
) -> FusedTransformation:
    """Lion with its moment in eight bits: 1 byte of state a parameter, not 4.

    It is :func:`optax.lion` under :func:`quantize_states`, and its ``step`` works in place.

    Args:
        learning_rate: step size, or a schedule of the step count.
        b1, b2: see :func:`optax.lion`.
        weight_decay: decoupled, multiplied by the learning rate, or a schedule of it.
        mask: pytree of bools, or a function of params giving one: where to decay.
        codec, where, min_size, shards, seed: see :func:`quantize_states`.

    Returns:
        A transformation with a ``step``: see :func:`optlab.transforms.quantized.fused`.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((64, 256))}
    >>> lion8bit(1e-4).init(params).inner[0].mu["w"].code.dtype
    dtype('int8')

    References:
        X. Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023,
        arXiv:2302.06675; T. Dettmers, M. Lewis,
        S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise Quantization", ICLR 2022,
        arXiv:2110.02861
    """

    def make(params):
        mask_tree = mask_of(mask, params)
        return optax.lion(learning_rate, b1, b2, weight_decay=weight_decay, mask=mask_tree)

    return fuse(make, codec, by="entry", where=where, min_size=min_size, shards=shards, seed=seed)


def sgd8bit(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.9,
    *,
    nesterov: bool = False,
    codec: CodecRule = "power8",
    where: Where | None = None,
    min_size: int | None = None,
    shards: int | None = None,
    seed: int | None = None,
) -> FusedTransformation:
    """SGD with momentum in eight bits: 1 byte of state a parameter, not 4.

    It is :func:`optax.sgd` under :func:`quantize_states`, and its ``step`` works in place.

    Args:
        learning_rate: step size, or a schedule of the step count.
        momentum: decay of the moment.
        nesterov: whether the gradient is added once more.
        codec, where, min_size, shards, seed: see :func:`quantize_states`.

    Returns:
        A transformation with a ``step``: see :func:`optlab.transforms.quantized.fused`.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((64, 256))}
    >>> sgd8bit(1e-2).init(params).inner[0].trace["w"].code.dtype
    dtype('int8')

    References:
        T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise
        Quantization", ICLR 2022, arXiv:2110.02861

    Differs from optax.sgd: there is momentum by default; without it there is no state to code.
    """

    def make(params):
        del params
        return optax.sgd(learning_rate, momentum, nesterov)

    return fuse(make, codec, by="entry", where=where, min_size=min_size, shards=shards, seed=seed)
