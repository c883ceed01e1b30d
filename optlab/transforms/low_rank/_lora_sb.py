"""LoRA-SB: adapters of r x r numbers, in bases that the first step of full training spans."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp

from optlab._arithmetic import wide_dtype
from optlab._checks import check_count, check_range
from optlab._sharding import placed_like, whole
from optlab.base import Params, PyTree

__all__ = ["LoraBases", "lora_sb", "lora_sb_merge"]


class LoraBases(NamedTuple):
    """The fixed factors of an adapter for a matrix [m, n]; called B and A in the paper."""

    left: jax.Array  # shape=(m, r), orthonormal columns
    right: jax.Array  # shape=(r, n), orthonormal rows


def _name(path):
    # Flax nnx holds its arrays under a last key of their own.
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")


def lora_sb(
    gradients: PyTree,
    rank: int,
    learning_rate: float,
    total_steps: int,
    *,
    warmup_ratio: float = 0.02,
    layers: str | None = None,
) -> tuple[dict[str, LoraBases], dict[str, jax.Array]]:
    r"""Finds bases and first values of adapters from the gradients of some examples.

    .. math::
        -\eta_0 \operatorname{sign}\Big(\sum_i \nabla_W \ell_i\Big) \approx B R A, \qquad
        \eta_0 = \frac{\eta}{\text{warmup\_ratio} \cdot T}

    is the truncated singular value decomposition of what Adam's first step would be: R is diagonal,
    and :math:`B^\top B = A A^\top = I`. Only R is trained from then on, by any optimizer and with
    no scaling factor to tune: its gradient is :math:`B^\top \nabla_W A^\top`, and a step along it
    the projection of the step that full training would take::

        bases, latents = lora_sb(gradients, rank=96, learning_rate=1e-4, total_steps=1000)
        loss_of_latents = lambda latents, batch: loss(lora_sb_merge(params, bases, latents), batch)
        updates, state = tx.update(jax.grad(loss_of_latents)(latents, batch), state, latents)

    An optimizer's state is then that of :math:`r^2` numbers a matrix; the bases are r (m + n) more.

    Args:
        gradients: sum, or mean, of the gradients of some hundred examples, like the params.
        rank: r.
        learning_rate: :math:`\eta`, the peak of the training to come.
        total_steps: T, steps of the training to come.
        warmup_ratio: share of these that warms up, in (0, 1]; :math:`\eta_0` is the learning rate
            of the first step.
        layers: a regular expression; the matrices in whose path it is found are adapted. None means
            all leaves of two axes.

    Returns:
        The bases, in the gradients' dtypes, and the latents R, ``[r, r]`` in float32 or wider: two
        dicts by the leaf's path with its parts joined by slashes.

    Raises:
        ValueError: if an argument is out of range, or ``rank`` more than a matrix has, or if there
            is nothing to adapt.

    >>> gradients = {"dense": {"kernel": jnp.outer(jnp.ones(4), jnp.ones(3)), "bias": jnp.ones(3)}}
    >>> bases, latents = lora_sb(gradients, rank=1, learning_rate=1e-2, total_steps=100)
    >>> zeros = jax.tree.map(jnp.zeros_like, gradients)
    >>> merged = lora_sb_merge(zeros, bases, latents)["dense"]["kernel"]
    >>> bool(jnp.allclose(merged, -5e-3, rtol=1e-5)), list(latents)
    (True, ['dense/kernel'])

    References:
        K. Ponkshe, R. Singhal, E. Gorbunov, A. Tumanov, S. Horvath, P. Vepakomma, "Initialization
        using Update Approximation is a Silver Bullet for Extremely Efficient Low-Rank Fine-Tuning",
        2024, arXiv:2411.19557

    Differs from the paper: nothing known. Differs from the released code: an exact decomposition in
    float32 or more; there it is randomised, and the factors are rounded to bfloat16, which is off
    by 2 %.
    """
    check_count("rank", rank, 1)
    check_count("total_steps", total_steps, 1)
    check_range("warmup_ratio", warmup_ratio, 0.0, 1.0, closed="(]")
    first_rate = learning_rate / (warmup_ratio * total_steps)
    bases, latents = {}, {}
    for path, g in jax.tree_util.tree_leaves_with_path(gradients):
        name = _name(path)
        if g.ndim != 2 or not re.search(layers or "", name):
            continue
        if rank > min(g.shape):
            raise ValueError(f"rank {rank} is more than {name!r} of shape {g.shape} has.")
        step = -first_rate * jnp.sign(whole(g).astype(wide_dtype(g)))
        u, s, vt = jnp.linalg.svd(step, full_matrices=False)
        bases[name] = LoraBases(u[:, :rank].astype(g.dtype), vt[:rank].astype(g.dtype))
        latents[name] = jnp.diag(s[:rank])
    if not bases:
        raise ValueError(f"layers {layers!r} is found in the path of no matrix of gradients.")
    return bases, latents


def lora_sb_merge(
    params: Params, bases: dict[str, LoraBases], latents: dict[str, jax.Array]
) -> Params:
    r"""Adds the adapters to the params: :math:`W + B R A`.

    It is differentiable by ``latents``; the same function serves training and, once, inference.

    Args:
        params: the frozen params, of any tree that :func:`lora_sb` saw the gradients of.
        bases: see :func:`lora_sb`.
        latents: see :func:`lora_sb`, or what training made of them.

    Returns:
        Params of the same shapes and dtypes; below float32 the sum is rounded to those.

    Raises:
        ValueError: if ``params`` lack a leaf that ``latents`` name.

    >>> bases, latents = lora_sb(jnp.eye(2), rank=1, learning_rate=1.0, total_steps=50)
    >>> float(jnp.trace(lora_sb_merge(jnp.zeros((2, 2)), bases, latents)))
    -1.0

    References:
        See :func:`lora_sb`.
    """
    missing = set(latents)

    def leaf(path, p):
        name = _name(path)
        if name not in latents:
            return p
        missing.discard(name)
        left, right = bases[name]
        w = p.astype(wide_dtype(p))
        return (w + placed_like(left @ latents[name] @ right, w)).astype(p.dtype)

    merged = jax.tree_util.tree_map_with_path(leaf, params)
    if missing:
        raise ValueError(f"params have no leaf {sorted(missing)[0]!r}, which latents name.")
    return merged
