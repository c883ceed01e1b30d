"""Adam and its relatives with their moments in eight bits or four."""

from typing import Any

import optax
import optax.contrib

from optlab.transforms.quantized._fused import FusedTransformation, fuse, mask_of
from optlab.transforms.quantized._rules import CodecRule, Where

__all__ = ["adam8bit", "adamw8bit", "ademamix8bit"]


def adamw8bit(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    *,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    mask: Any | None = None,
    nesterov: bool = False,
    codec: CodecRule = "power8",
    where: Where | None = None,
    min_size: int | None = None,
    shards: int | None = None,
    seed: int | None = None,
) -> FusedTransformation:
    """AdamW with moments of eight bits: 2 bytes of state a parameter, not 8.

    It is :func:`optax.adamw` under :func:`quantize_states`, and its ``step`` works in place.

    Args:
        learning_rate: step size, or a schedule of the step count.
        b1, b2, eps, eps_root, nesterov: see :func:`optax.adamw`.
        weight_decay: decoupled, multiplied by the learning rate, or a schedule of it.
        mask: pytree of bools, or a function of params giving one: where to decay.
        codec, where, min_size, shards, seed: see :func:`quantize_states`.

    Returns:
        A transformation with a ``step``: see :func:`optlab.transforms.quantized.fused`.

    >>> tx = adamw8bit(1e-3, where=lambda path, leaf: "embedding" not in path)
    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((64, 256))}
    >>> params, state = tx.step(params, params, tx.init(params))
    >>> round(float(params["w"][0, 0]), 4)
    0.999

    References:
        T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise
        Quantization", ICLR 2022, arXiv:2110.02861

    Differs from the paper: see :func:`quantize_states`. Differs from bitsandbytes: optax decays the
    weights by the old ones, its CUDA kernel by those already moved.
    """

    def make(params):
        return optax.adamw(
            learning_rate,
            b1,
            b2,
            eps,
            eps_root,
            weight_decay=weight_decay,
            mask=mask_of(mask, params),
            nesterov=nesterov,
        )

    return fuse(make, codec, by="entry", where=where, min_size=min_size, shards=shards, seed=seed)


def adam8bit(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    *,
    nesterov: bool = False,
    codec: CodecRule = "power8",
    where: Where | None = None,
    min_size: int | None = None,
    shards: int | None = None,
    seed: int | None = None,
) -> FusedTransformation:
    """Adam with moments of eight bits, 2 bytes of state a parameter: see :func:`adamw8bit`.

    Args:
        learning_rate: step size, or a schedule of the step count.
        b1, b2, eps, eps_root, nesterov: see :func:`optax.adam`.
        codec, where, min_size, shards, seed: see :func:`quantize_states`.

    Returns:
        A transformation with a ``step``: see :func:`optlab.transforms.quantized.fused`.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((64, 256))}
    >>> tx = adam8bit(1e-3)
    >>> tx.init(params).inner[0].mu["w"].code.dtype
    dtype('int8')

    References: see :func:`adamw8bit`.
    """

    def make(params):
        del params
        return optax.adam(learning_rate, b1, b2, eps, eps_root, nesterov=nesterov)

    return fuse(make, codec, by="entry", where=where, min_size=min_size, shards=shards, seed=seed)


def ademamix8bit(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    b3: optax.ScalarOrSchedule = 0.9999,
    alpha: optax.ScalarOrSchedule = 5.0,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    *,
    weight_decay: float = 0.0,
    mask: Any | None = None,
    codec: CodecRule = "power8",
    where: Where | None = None,
    min_size: int | None = None,
    shards: int | None = None,
    seed: int | None = None,
) -> FusedTransformation:
    """AdEMAMix with its three moments in eight bits: 3 bytes of state a parameter, not 12.

    It is :func:`optax.contrib.ademamix` under :func:`quantize_states`. With ``b3`` at 0.9999 a step
    moves the slow moment by less than half a code: give a ``seed``, that it moves in the mean.

    Args:
        learning_rate: step size, or a schedule of the step count.
        b1, b2, b3, alpha, eps, eps_root: see :func:`optax.contrib.ademamix`.
        weight_decay: decoupled, multiplied by the learning rate.
        mask: pytree of bools, or a function of params giving one: where to decay.
        codec, where, min_size, shards, seed: see :func:`quantize_states`.

    Returns:
        A transformation with a ``step``: see :func:`optlab.transforms.quantized.fused`.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((64, 256))}
    >>> tx = ademamix8bit(1e-3)
    >>> tx.init(params).inner[0].m2["w"].code.dtype
    dtype('int8')

    References:
        M. Pagliardini, P. Ablin, D. Grangier, "The AdEMAMix Optimizer: Better, Faster, Older",
        ICLR 2025, arXiv:2409.03137; T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, "8-bit
        Optimizers via Block-wise Quantization", ICLR 2022, arXiv:2110.02861
    """

    def make(params):
        return optax.contrib.ademamix(
            learning_rate,
            b1,
            b2,
            b3,
            alpha,
            eps,
            eps_root,
            weight_decay=weight_decay,
            mask=mask_of(mask, params),
        )

    return fuse(make, codec, by="entry", where=where, min_size=min_size, shards=shards, seed=seed)
