"""Methods that need whole leaves, or another family's directions, in eight bits."""

from typing import Any

import optax

from optlab.transforms.adaptive import lamb, lars
from optlab.transforms.matrix import hidden_matrix_labels, muon
from optlab.transforms.quantized._fused import FusedTransformation, fuse, mask_of
from optlab.transforms.quantized._reach import reach
from optlab.transforms.quantized._rules import CodecRule, Where
from optlab.transforms.sign import Kappa, get_kappa, lion_k

__all__ = ["lamb8bit", "lars8bit", "lion_k8bit", "muon8bit"]


def lamb8bit(
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
    codec: CodecRule = "power8",
    where: Where | None = None,
    min_size: int | None = None,
    shards: int | None = None,
    seed: int | None = None,
) -> FusedTransformation:
    """LAMB with its moments in eight bits: 2 bytes of state a parameter, not 8.

    Its ``step`` takes one leaf at a time, and the plain update where leaves are sharded.

    Args:
        learning_rate: step size, or a schedule of the step count.
        b1, b2, eps, debias, phi: see :func:`optlab.lamb`.
        weight_decay, mask, trust_ratio_mask: see :func:`optlab.lamb`.
        codec, where, min_size, shards, seed: see :func:`quantize_states`.

    Returns:
        A transformation with a ``step``: see :func:`optlab.transforms.quantized.fused`.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((64, 256))}
    >>> lamb8bit(1e-3).init(params).inner[0].mu["w"].code.dtype
    dtype('int8')

    References:
        Y. You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
        ICLR 2020, arXiv:1904.00962; T. Dettmers, M. Lewis,
        S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise Quantization", ICLR 2022,
        arXiv:2110.02861

    Differs from bitsandbytes: the trust ratio is applied, which its 8-bit kernels leave out.
    """

    def make(params):
        return lamb(
            learning_rate,
            b1=b1,
            b2=b2,
            eps=eps,
            debias=debias,
            phi=phi,
            weight_decay=weight_decay,
            mask=mask_of(mask, params),
            trust_ratio_mask=mask_of(trust_ratio_mask, params),
        )

    return fuse(make, codec, by="leaf", where=where, min_size=min_size, shards=shards, seed=seed)


def lars8bit(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    popular: bool = False,
    trust_coefficient: float = 1e-3,
    weight_decay: float = 0.0,
    mask: Any | None = None,
    trust_ratio_mask: Any | None = None,
    codec: CodecRule = "power8",
    where: Where | None = None,
    min_size: int | None = None,
    shards: int | None = None,
    seed: int | None = None,
) -> FusedTransformation:
    """LARS with its moment in eight bits: 1 byte of state a parameter, not 4.

    Its ``step`` takes one leaf at a time, and the plain update where leaves are sharded.

    Args:
        learning_rate: step size, or a schedule of the step count.
        momentum, nesterov, popular, trust_coefficient: see :func:`optlab.lars`.
        weight_decay, mask, trust_ratio_mask: see :func:`optlab.lars`.
        codec, where, min_size, shards, seed: see :func:`quantize_states`.

    Returns:
        A transformation with a ``step``: see :func:`optlab.transforms.quantized.fused`.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((64, 256))}
    >>> tx = lars8bit(0.1, trust_coefficient=1.0)
    >>> params, state = tx.step(params, params, tx.init(params))
    >>> round(float(params["w"][0, 0]), 4)
    0.9

    References:
        Y. You, I. Gitman, B. Ginsburg, "Large Batch Training of Convolutional Networks", 2017,
        arXiv:1708.03888; T. Dettmers, M. Lewis,
        S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise Quantization", ICLR 2022,
        arXiv:2110.02861

    Differs from bitsandbytes: the trust ratio is applied, which its 8-bit kernels leave out.
    """

    def make(params):
        return lars(
            learning_rate,
            momentum=momentum,
            nesterov=nesterov,
            popular=popular,
            trust_coefficient=trust_coefficient,
            weight_decay=weight_decay,
            mask=mask_of(mask, params),
            trust_ratio_mask=mask_of(trust_ratio_mask, params),
        )

    return fuse(make, codec, by="leaf", where=where, min_size=min_size, shards=shards, seed=seed)


def muon8bit(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    adam_b1: float = 0.9,
    adam_b2: float = 0.95,
    adam_eps: float = 1e-10,
    labels: Any | None = None,
    weight_decay: float = 0.0,
    mask: Any | None = None,
    codec: CodecRule = "power8",
    where: Where | None = None,
    min_size: int | None = None,
    shards: int | None = None,
    seed: int | None = None,
) -> FusedTransformation:
    """Muon with its moments in eight bits: 1 byte of state an entry of a matrix, not 4.

    Its ``step`` takes one leaf at a time, and the plain update where leaves are sharded.

    Args:
        learning_rate: step size, or a schedule of the step count.
        b1, nesterov, ns_steps: see :func:`optlab.muon`.
        adam_learning_rate, adam_b1, adam_b2, adam_eps, labels: see :func:`optlab.muon`.
        weight_decay, mask: see :func:`optlab.muon`.
        codec, where, min_size, shards, seed: see :func:`quantize_states`.

    Returns:
        A transformation with a ``step``: see :func:`optlab.transforms.quantized.fused`.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((64, 256))}
    >>> tx = muon8bit(0.02)
    >>> params, state = tx.step(params, params, tx.init(params))
    >>> bool((params["w"] < 1).all())
    True

    References:
        K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024;
        T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise
        Quantization", ICLR 2022, arXiv:2110.02861
    """

    def make(params):
        return muon(
            learning_rate,
            b1=b1,
            nesterov=nesterov,
            ns_steps=ns_steps,
            adam_learning_rate=adam_learning_rate,
            adam_b1=adam_b1,
            adam_b2=adam_b2,
            adam_eps=adam_eps,
            labels=mask_of(labels or hidden_matrix_labels, params),
            weight_decay=weight_decay,
            mask=mask_of(mask, params),
        )

    return fuse(make, codec, by="leaf", where=where, min_size=min_size, shards=shards, seed=seed)


def lion_k8bit(
    learning_rate: optax.ScalarOrSchedule,
    kappa: Kappa | str = "l1",
    *,
    b1: float = 0.9,
    b2: float = 0.99,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | None = None,
    codec: CodecRule = "power8",
    where: Where | None = None,
    min_size: int | None = None,
    shards: int | None = None,
    seed: int | None = None,
) -> FusedTransformation:
    """Lion-K with its moment in eight bits: 1 byte of state a parameter, not 4.

    Its ``step`` goes by entries, by leaves or takes the plain update, as kappa's subgradient asks.

    Args:
        learning_rate: step size, or a schedule of the step count.
        kappa, b1, b2: see :func:`optlab.lion_k`.
        weight_decay, mask: see :func:`optlab.lion_k`.
        codec, where, min_size, shards, seed: see :func:`quantize_states`.

    Returns:
        A transformation with a ``step``: see :func:`optlab.transforms.quantized.fused`.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((64, 256))}
    >>> lion_k8bit(1e-4, "huber(0.1)").init(params).inner[0].mu["w"].code.dtype
    dtype('int8')

    References:
        L. Chen, B. Liu, K. Liang, Q. Liu, "Lion Secretly Solves Constrained Optimization: As
        Lyapunov Predicts", ICLR 2024, arXiv:2310.05898; T. Dettmers, M. Lewis,
        S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise Quantization", ICLR 2022,
        arXiv:2110.02861
    """
    kappa = get_kappa(kappa)

    def make(params):
        mask_tree = mask_of(mask, params)
        return lion_k(learning_rate, kappa, b1=b1, b2=b2, weight_decay=weight_decay, mask=mask_tree)

    # Of kappa alone: under inject_hyperparams the other arguments may be traced.
    found = reach(lion_k(1.0, kappa))
    by = found if found in ("entry", "leaf") else None

    return fuse(make, codec, by=by, where=where, min_size=min_size, shards=shards, seed=seed)
