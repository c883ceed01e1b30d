"""AdamW with the codecs of other published optimizers."""

from typing import Any

import optax

from optlab.transforms.quantized._adam import adamw8bit
from optlab.transforms.quantized._fused import FusedTransformation
from optlab.transforms.quantized._rules import CodecRule, Where

__all__ = ["adamw4bit", "adamw_coat", "adamw_fp8"]


def adamw4bit(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    *,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    mask: Any | None = None,
    nesterov: bool = False,
    codec: CodecRule = "dynamic4",
    where: Where | None = None,
    min_size: int | None = None,
    shards: int | None = None,
    seed: int | None = None,
) -> FusedTransformation:
    """AdamW with moments of four bits: 1.06 bytes of state a parameter, not 8.

    The first moment is in :func:`optlab.codecs.dynamic4`, the second in
    :func:`optlab.codecs.linear4_nozero`. ``codec={"mu": "dynamic4", "nu": "rank1_linear4"}`` is the
    paper's for matrices; the ``step`` then works on whole leaves. As two codes share a byte, a leaf
    whose last axis is odd stays in float32.

    Args:
        learning_rate: step size, or a schedule of the step count.
        b1, b2, eps, eps_root, nesterov: see :func:`optax.adamw`.
        weight_decay: decoupled, multiplied by the learning rate, or a schedule of it.
        mask: pytree of bools, or a function of params giving one: where to decay.
        codec, where, min_size, shards, seed: see :func:`quantize_states`.

    Returns:
        A transformation with a ``step``: see :func:`optlab.transforms.quantized.fused`.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((64, 256))}
    >>> adamw4bit(1e-3).init(params).inner[0].mu["w"].code.shape
    (64, 128)

    References:
        B. Li, J. Chen, J. Zhu, "Memory Efficient Optimizers with 4-bit States", NeurIPS 2023,
        arXiv:2309.01507

    Differs from the paper: scales of blocks of 128 by default, as in torchao.
    """
    return adamw8bit(
        learning_rate,
        b1,
        b2,
        eps,
        eps_root,
        weight_decay=weight_decay,
        mask=mask,
        nesterov=nesterov,
        codec=codec,
        where=where,
        min_size=min_size,
        shards=shards,
        seed=seed,
    )


def adamw_fp8(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    *,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    mask: Any | None = None,
    nesterov: bool = False,
    codec: CodecRule = "float8",
    where: Where | None = None,
    min_size: int | None = None,
    shards: int | None = None,
    seed: int | None = None,
) -> FusedTransformation:
    """AdamW with moments in eight-bit floats (e4m3): 2 bytes of state a parameter, not 8.

    For parity with torchao; :func:`adamw8bit` has half the error in the same bits.

    Args:
        learning_rate: step size, or a schedule of the step count.
        b1, b2, eps, eps_root, nesterov: see :func:`optax.adamw`.
        weight_decay: decoupled, multiplied by the learning rate, or a schedule of it.
        mask: pytree of bools, or a function of params giving one: where to decay.
        codec, where, min_size, shards, seed: see :func:`quantize_states`.

    Returns:
        A transformation with a ``step``: see :func:`optlab.transforms.quantized.fused`.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((64, 256))}
    >>> adamw_fp8(1e-3).init(params).inner[0].mu["w"].code.dtype
    dtype('uint8')

    References:
        H. Peng et al., "FP8-LM: Training FP8 Large Language Models", 2023, arXiv:2310.18313;
        torchao's AdamWFp8

    Differs from torchao: a positive second moment is never coded as zero, which lets the update
    explode; ``codec="float8(safe_zero=False)"`` is as torchao's.
    """
    return adamw8bit(
        learning_rate,
        b1,
        b2,
        eps,
        eps_root,
        weight_decay=weight_decay,
        mask=mask,
        nesterov=nesterov,
        codec=codec,
        where=where,
        min_size=min_size,
        shards=shards,
        seed=seed,
    )


def adamw_coat(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    *,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    mask: Any | None = None,
    nesterov: bool = False,
    codec: CodecRule = "coat8",
    where: Where | None = None,
    min_size: int | None = None,
    shards: int | None = None,
    seed: int | None = None,
) -> FusedTransformation:
    """AdamW with moments in eight-bit floats whose range is expanded: 2.19 bytes a parameter.

    Each group of 128 is raised to the power that fills the range of e4m3: see
    :func:`optlab.codecs.coat8`.

    Args:
        learning_rate: step size, or a schedule of the step count.
        b1, b2, eps, eps_root, nesterov: see :func:`optax.adamw`.
        weight_decay: decoupled, multiplied by the learning rate, or a schedule of it.
        mask: pytree of bools, or a function of params giving one: where to decay.
        codec, where, min_size, shards, seed: see :func:`quantize_states`.

    Returns:
        A transformation with a ``step``: see :func:`optlab.transforms.quantized.fused`.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((64, 256))}
    >>> adamw_coat(1e-3).init(params).inner[0].mu["w"].code.dtype
    dtype('uint8')

    References:
        H. Xi et al., "COAT: Compressing Optimizer States and Activation for Memory-Efficient FP8
        Training", ICLR 2025, arXiv:2410.19313

    Differs from the released code: zeros do not enter the range of a group; ``codec=
    "coat8(zero_safe=False)"`` is as released.
    """
    return adamw8bit(
        learning_rate,
        b1,
        b2,
        eps,
        eps_root,
        weight_decay=weight_decay,
        mask=mask,
        nesterov=nesterov,
        codec=codec,
        where=where,
        min_size=min_size,
        shards=shards,
        seed=seed,
    )
