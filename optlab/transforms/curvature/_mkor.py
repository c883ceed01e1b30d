"""MKOR: Kronecker-factored preconditioning whose inverse factors follow rank-one updates."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import wide_dtype
from optlab._checks import check_range
from optlab.linalg import safe_norm
from optlab.transforms.curvature._layers import layers

__all__ = ["KroneckerInverse", "ScaleByMkorState", "mkor", "momentum_and_decay", "scale_by_mkor"]

_BLEND = 0.95  # of the released code, which ignores its argument


class KroneckerInverse(NamedTuple):
    """The inverse factors of one layer, symmetric and positive definite."""

    inputs: jax.Array  # shape=(in + 1, in + 1), or (in, in) without a bias, dtype=factor_dtype
    outputs: jax.Array  # shape=(out, out), dtype=factor_dtype


class ScaleByMkorState(NamedTuple):
    """State of :func:`scale_by_mkor`: (m + 1)^2 + n^2 numbers for an m x n kernel and its bias.

    A convolution's m is that of its patches: height times width times channels.
    """

    count: jax.Array  # shape=(), dtype=int32: steps
    factors: tuple[KroneckerInverse, ...]  # one a layer, in the order of the params' kernels


def _blend(factor, weight):
    return weight * factor + (1 - weight) * jnp.eye(factor.shape[0], dtype=factor.dtype)


def _rank_one_inverse(factor, vector, decay, weight):
    """The inverse of ``decay * A + weight * v v^T`` from that of A, in O(d^2)."""
    image = factor @ vector
    scale = weight / (decay + weight * (vector @ image))
    return (factor - scale * (image[:, None] * image[None, :])) / decay


def scale_by_mkor(
    *,
    factor_decay: float = 0.95,
    update_interval: int = 10,
    warmup_steps: int = 0,
    stabilizer: float = 0.1,
    max_factor: float = 2.0,
    clip: float = 100.0,
    first_order: str | None = None,
    factor_dtype: Any | None = None,
    as_released: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Multiplies each layer's gradient by the inverses of two Kronecker factors.

    .. math::
        R_t = \gamma R_{t-1} + (1 - \gamma) \bar a \bar a^\top, \quad
        L_t = \gamma L_{t-1} + (1 - \gamma) \bar g \bar g^\top, \quad
        \hat U_t = R_t^{-1} G_t L_t^{-1}, \quad
        U_t = \frac{\|G_t\|_F}{\|\hat U_t\|_F} \hat U_t

    where :math:`\bar a` is the mean of the layer's inputs, with a one for the bias,
    :math:`\bar g` that of the gradients by its outputs, and G the gradient of kernel and bias, one
    below the other. Only the inverses are kept, from I on; the Sherman-Morrison identity renews one
    in O(d^2). An inverse with an entry above ``max_factor`` first leans towards I,
    :math:`R^{-1} \leftarrow (1 - s) R^{-1} + s I`. All other leaves pass through unchanged.

    The ``update`` takes ``statistics``, the gradient by :func:`layer_taps`::

        gradients, statistics = jax.grad(loss, argnums=(0, 1))(params, taps)
        updates, state = tx.update(gradients, state, params, statistics=statistics)

    Args:
        factor_decay: :math:`\gamma` in (0, 1].
        update_interval: the factors are renewed in every so many steps.
        warmup_steps: and in each of the first so many.
        stabilizer: s in [0, 1].
        max_factor: positive; the largest entry of an inverse that is left alone.
        clip: positive; longer means are shortened to this norm, which bounds the inverses from
            below by :math:`1 / \max(1, c^2)`. So that they stay positive definite once rounded, c
            is :math:`(8 \epsilon)^{-1/2}` at most: 1024 in float32, 11 in float16, 4 in bfloat16.
        first_order: see :func:`layer_taps`; such layers, a large vocabulary's for example, pass
            through.
        factor_dtype: dtype in which the inverses are stored, such as ``jnp.bfloat16``; None keeps
            the kernel's, float32 at least. They are renewed and applied in float32 or more.
        as_released: the rule of the released code: :math:`J = 0.95 R^{-1} + 0.05 I`, then
            :math:`J - J \bar a \bar a^\top J / (1 + \bar a^\top J \bar a)`, not in the first step;
            no stabilizer; and norms of kernel and bias are added up, not taken together.

    Returns:
        A transformation; its updates have the gradients' shapes and dtypes.

    Raises:
        ValueError: if an argument is out of range, or, at trace time, if ``statistics`` is missing
            or lacks a layer.

    >>> from optlab.transforms.curvature import LayerStatistics
    >>> params = {"dense": {"kernel": jnp.eye(2)}}
    >>> tx = scale_by_mkor()
    >>> statistics = {"dense": LayerStatistics(jnp.array([3.0, 0.0]), jnp.zeros(2))}
    >>> updates, _ = tx.update(params, tx.init(params), params, statistics=statistics)
    >>> kernel = updates["dense"]["kernel"]
    >>> bool(kernel[0, 0] < kernel[1, 1])  # the input that is large on the mean moves less
    True

    References:
        M. Mozaffari, S. Li, Z. Zhang, M. Mehri Dehnavi, "MKOR: Momentum-Enabled
        Kronecker-Factor-Based Optimizer Using Rank-1 Updates", NeurIPS 2023, arXiv:2306.01685

    Differs from the paper: its equations 5 and 6 add the rank-one term, which would enlarge the
    steps along the mean; the identity that they are derived from subtracts it. Differs from the
    released code: float32 factors, where it has float16 and computes in it; the means are clipped
    by their norm, where it clips each entry of each example at 100; a convolution's positions count
    as examples, as a sequence's do, where it takes the mean of their gradients for an example's.
    """
    check_range("factor_decay", factor_decay, 0.0, 1.0, closed="(]")
    check_range("update_interval", update_interval, 1, float("inf"))
    check_range("warmup_steps", warmup_steps, 0, float("inf"))
    check_range("stabilizer", stabilizer, 0.0, 1.0, closed="[]")
    check_range("max_factor", max_factor, 0.0, float("inf"), closed="()")
    check_range("clip", clip, 0.0, float("inf"), closed="()")

    def init(params):
        leaves = jax.tree.leaves(params)

        def identities(layer):
            kernel = leaves[layer.kernel]
            dtype = factor_dtype or wide_dtype(kernel)
            *inputs, outputs = kernel.shape
            sizes = (math.prod(inputs) + (layer.bias is not None), outputs)
            return KroneckerInverse(*(jnp.eye(size, dtype=dtype) for size in sizes))

        factors = tuple(identities(layer) for layer in layers(params, first_order))
        return ScaleByMkorState(count=jnp.zeros((), jnp.int32), factors=factors)

    def renewed(stored, mean, count):
        factor = stored.astype(mean.dtype)
        norm = safe_norm(mean)
        longest = jnp.minimum(clip, (8 * jnp.finfo(stored.dtype).eps) ** -0.5)
        mean = mean * jnp.minimum(1, longest / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
        if as_released:
            new = _rank_one_inverse(_blend(factor, _BLEND), mean, 1, 1)
            return jnp.where(count == 0, stored, new.astype(stored.dtype))
        leaning = jnp.where(
            jnp.max(jnp.abs(factor), initial=0) > max_factor, _blend(factor, 1 - stabilizer), factor
        )
        new = _rank_one_inverse(leaning, mean, factor_decay, 1 - factor_decay)
        return new.astype(stored.dtype)

    def preconditioned(factors, kernel, bias):
        g = kernel.reshape(-1, kernel.shape[-1]) if kernel.ndim > 2 else kernel
        g = g if bias is None else jnp.concatenate([g, bias[None]])
        g = g.astype(wide_dtype(g))
        u = factors.inputs.astype(g.dtype) @ g @ factors.outputs.astype(g.dtype)

        def size(x):
            if as_released and bias is not None:
                return safe_norm(x[:-1]) + safe_norm(x[-1])
            return safe_norm(x)

        norm = size(u)
        u = u * jnp.where(norm > 0, size(g) / jnp.where(norm > 0, norm, 1), 1)
        rows, last = (u, None) if bias is None else (u[:-1], u[-1])
        return rows.reshape(kernel.shape).astype(kernel.dtype), last

    def update(updates, state, params=None, *, statistics=None, **extra):
        del params, extra
        if statistics is None:
            raise ValueError("statistics must be given to MKOR's update: see layer_taps.")
        leaves, structure = jax.tree.flatten(updates)
        found = layers(updates, first_order)
        means = []
        for layer, factors in zip(found, state.factors, strict=True):
            if layer.name not in statistics:
                raise ValueError(
                    f"statistics has no entry for the layer {layer.name!r}; to leave a layer to "
                    "first order, name it in first_order."
                )
            inputs, outputs = statistics[layer.name]
            if layer.bias is not None:
                inputs = jnp.append(inputs, 1)
            dtype = wide_dtype(factors.inputs)
            means.append(KroneckerInverse(inputs.astype(dtype), outputs.astype(dtype)))

        def renew(factors):
            return jax.tree.map(lambda f, v: renewed(f, v, state.count), factors, tuple(means))

        due = (state.count % update_interval == 0) | (state.count < warmup_steps)
        factors = jax.lax.cond(due, renew, lambda factors: factors, state.factors)
        for layer, inverse in zip(found, factors, strict=True):
            bias = None if layer.bias is None else leaves[layer.bias]
            leaves[layer.kernel], new = preconditioned(inverse, leaves[layer.kernel], bias)
            if bias is not None:
                leaves[layer.bias] = new.astype(bias.dtype)
        count = optax.safe_increment(state.count)
        return jax.tree.unflatten(structure, leaves), ScaleByMkorState(count, factors)

    return optax.GradientTransformationExtraArgs(init, update)


def mkor(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    factor_decay: float = 0.95,
    update_interval: int = 10,
    warmup_steps: int = 0,
    stabilizer: float = 0.1,
    max_factor: float = 2.0,
    clip: float = 100.0,
    first_order: str | None = None,
    factor_dtype: Any | None = None,
    weight_decay: float = 0.0,
    mask: Any | None = None,
    mu_dtype: Any | None = None,
    as_released: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum on gradients that MKOR preconditions: see :func:`scale_by_mkor`.

    .. math::
        m_t = \beta_1 m_{t-1} + U_t, \qquad x_t = x_{t-1} - \eta (m_t + \lambda x_{t-1})

    For another optimizer put it after :func:`scale_by_mkor` in ``optax.chain``. An m x n kernel
    with a bias costs (m + 1)^2 + n^2 + (m + 1) n numbers of state: two factors and the momentum.

    Args:
        learning_rate: step size, or a schedule of the step count; that of plain momentum, as the
            norms of the gradients are kept.
        b1: decay of the momentum, in [0, 1).
        factor_decay: see :func:`scale_by_mkor`.
        update_interval: see :func:`scale_by_mkor`.
        warmup_steps: see :func:`scale_by_mkor`.
        stabilizer: see :func:`scale_by_mkor`.
        max_factor: see :func:`scale_by_mkor`.
        clip: see :func:`scale_by_mkor`.
        first_order: see :func:`scale_by_mkor`.
        factor_dtype: see :func:`scale_by_mkor`.
        weight_decay: decoupled, multiplied by the learning rate.
        mask: pytree of bools, or a function of params giving one: where to decay.
        mu_dtype: dtype in which the momentum is stored; None keeps the leaf's.
        as_released: see :func:`scale_by_mkor`.

    Returns:
        A transformation; its ``update`` needs ``params`` and ``statistics``.

    Raises:
        ValueError: if an argument is out of range.

    >>> from optlab.transforms.curvature import layer_taps
    >>> params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    >>> tx = mkor(0.1)
    >>> taps = layer_taps(params)
    >>> updates, _ = tx.update(params, tx.init(params), params, statistics=taps)
    >>> bool((updates["dense"]["bias"] < 0).all())
    True

    References:
        M. Mozaffari, S. Li, Z. Zhang, M. Mehri Dehnavi, "MKOR: Momentum-Enabled
        Kronecker-Factor-Based Optimizer Using Rank-1 Updates", NeurIPS 2023, arXiv:2306.01685

    Differs from the paper: see :func:`scale_by_mkor`.
    """
    precondition = scale_by_mkor(
        factor_decay=factor_decay,
        update_interval=update_interval,
        warmup_steps=warmup_steps,
        stabilizer=stabilizer,
        max_factor=max_factor,
        clip=clip,
        first_order=first_order,
        factor_dtype=factor_dtype,
        as_released=as_released,
    )
    return optax.chain(
        precondition, momentum_and_decay(learning_rate, b1, weight_decay, mask, mu_dtype)
    )


def momentum_and_decay(learning_rate, b1, weight_decay, mask, mu_dtype):
    """The end of a chain: heavy-ball momentum, decoupled decay and the learning rate."""
    check_range("b1", b1, 0.0, 1.0)
    return optax.chain(
        optax.trace(b1, accumulator_dtype=mu_dtype),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
