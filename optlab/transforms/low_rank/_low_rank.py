"""The building block: an optimizer that works on projections of the gradients."""

import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import wide_dtype
from optlab._checks import check_count
from optlab._sharding import placed_like, whole
from optlab.linalg import safe_norm
from optlab.transforms.low_rank._projection import SIDES, Projection
from optlab.transforms.low_rank._projectors import Projector, get_projector

__all__ = ["LowRankState", "low_rank"]


class LowRankState(NamedTuple):
    """State of :func:`low_rank`; its trees hold None where they have nothing to hold."""

    count: jax.Array  # shape=(), dtype=int32
    bases: tuple  # a tuple a leaf: for each projected axis [d, r] like inner, or int32 [r] for dct
    inner: optax.OptState  # of the projections, dtype=float32 or wider
    fallback: optax.OptState  # of the leaves that are not projected, dtype=float32 or wider
    error: optax.Updates  # like the projected leaves, dtype=float32 or wider; or ()
    residual: optax.OptState  # of leaves like the projected ones, dtype=float32 or wider; or ()


def low_rank(
    inner: optax.GradientTransformation,
    projector: Projector | str = "svd",
    rank: int = 128,
    *,
    update_interval: int = 200,
    update_offset: int = 0,
    side: str = "short",
    scale: float | Callable[[tuple[int, ...]], float] = 1.0,
    rotate_moments: bool = False,
    error_feedback: bool | float = False,
    residual: optax.GradientTransformation | None = None,
    exact_residual: bool = True,
    fallback: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Runs an optimizer on the gradients' projections, and lifts its updates back.

    For a matrix projected along its columns, with a basis Q of r orthonormal columns,

    .. math::
        A_t = G_t + E_{t-1}, \quad R_t = A_t Q_t, \quad N_t = \text{inner}(R_t), \quad
        E_t = A_t - \rho R_t Q_t^\top, \quad U_t = \alpha N_t Q_t^\top + S_t

    where :math:`E = 0` without error feedback and :math:`S = 0` without a residual. The basis is
    fitted to :math:`A_t` at the first step and then at every ``update_interval``-th, inside a
    ``lax.cond``. A leaf is projected along an axis only where that makes it smaller.

    The state of a projected m x n leaf, m <= n and side ``"short"``, is the inner one for r n
    numbers, the basis of m r numbers (r for dct), and m n more with error feedback.

    Args:
        inner: what acts on the projections; it gets no ``params``, and by keyword the extra
            arguments and ``refreshed``, a bool scalar: whether the bases are new in this step.
        projector: see :mod:`optlab.transforms.low_rank`.
        rank: r, a positive integer.
        update_interval: steps between refreshes of the bases.
        update_offset: step t = 0, 1, ... refreshes if it is the first, or if ``t + update_offset``
            is a multiple of the interval.
        side: which axis of a matrix is projected: the ``"short"`` or the ``"long"`` one (rows, and
            so the last axis, count as the longer of two equals), the ``"left"`` (the first) or the
            ``"right"``, or ``"both"``.
        scale: :math:`\alpha`, or a function of the leaf's shape that gives it.
        rotate_moments: at a refresh, express the moments ``mu``, ``trace`` and ``nu`` of inner
            states in the new basis (of ``nu`` the absolute value), instead of taking them over.
        error_feedback: :math:`\rho`: True or 1 keeps all that the projection left out; with
            :math:`1 - \mu` the buffer is a momentum that forgets only what was applied.
        residual: transformation of :math:`S = (A - R Q^\top) \phi`, the part left out, scaled as
            the inner optimizer scaled the projected part: :math:`\phi = \|N\| / \|R\|` over the
            projected axes. None drops S.
        exact_residual: False takes :math:`A - \alpha R Q^\top` for it.
        fallback: transformation of the leaves that are not projected: those with less than two
            axes (or more, unless the projector takes tensors), or too small for the rank.

    Returns:
        A transformation; its updates have the gradients' shapes and dtypes. NaN and inf propagate.
        Leaves that are sharded over explicit mesh axes are gathered while they are projected.

    Raises:
        ValueError: if an argument is out of range, or if ``init`` meets a leaf that cannot be
            projected and there is no ``fallback``, or a traced ``rank``, or nothing to rotate.

    >>> tx = low_rank(optax.identity(), "svd", rank=1)
    >>> g = jnp.outer(jnp.ones(3), jnp.arange(4.0))
    >>> bool(jnp.allclose(tx.update(g, tx.init(g))[0], g, atol=1e-5))
    True

    References:
        J. Zhao et al., "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection",
        ICML 2024, arXiv:2403.03507; X. Chen et al., "Fira: Can We Achieve Full-rank Training of
        LLMs Under Low-rank Constraint?", NeurIPS 2025, arXiv:2410.01623; I.-V. Modoranu et al.,
        "FFT-based Dynamic Subspace Selection for Low-Rank Adaptive Optimization of Large Language
        Models", 2025, arXiv:2505.17967

    Differs from the papers: see the methods built on it.
    """
    projector = get_projector(projector)
    check_count("rank", rank, 1)
    check_count("update_interval", update_interval, 1)
    if side not in SIDES:
        raise ValueError(f"side must be one of {', '.join(SIDES)}; got {side!r}.")
    inner = optax.with_extra_args_support(inner)
    others = optax.with_extra_args_support(fallback or optax.identity())
    feedback = error_feedback is not False

    def init(params):
        plan = _plan(params, rank, side, projector, strict=fallback is None)

        def over(function, projected=True):
            def leaf(p, where):
                return function(p, where, wide_dtype(p)) if bool(where.axes) is projected else None

            return jax.tree.map(leaf, params, plan)

        inner_state = inner.init(over(lambda p, where, dtype: where.zeros(dtype)))
        if rotate_moments and not any(map(_has_moments, _states(inner_state))):
            raise ValueError("rotate_moments needs an inner state with mu, nu or trace.")
        full = over(lambda p, where, dtype: jnp.zeros_like(p, dtype=dtype))
        bases = tuple(
            where.init(wide_dtype(p))
            for p, where in zip(jax.tree.leaves(params), jax.tree.leaves(plan), strict=True)
        )
        return LowRankState(
            count=jnp.zeros((), jnp.int32),
            # The stand-in of optax.tree.map_params has no leaves, and says where params' data are.
            bases=bases or params,
            inner=inner_state,
            fallback=others.init(over(lambda p, where, dtype: p.astype(dtype), projected=False)),
            error=full if feedback else (),
            residual=residual.init(full) if residual else (),
        )

    def update(updates, state, params=None, **extra):
        def at(x, bases):
            # Under inject_hyperparams the rank is traced, but the state's shapes are not.
            return Projection(x.shape, bases[0].shape[-1], side, projector)

        # Flax nnx would take a tuple inside a tree of params for a container of its own.
        structure = jax.tree.structure(updates)
        stored = state.bases if structure.num_leaves else ()
        old = structure.unflatten(b or None for b in stored)
        a = jax.tree.map(lambda g, b: b and whole(g.astype(wide_dtype(g))), updates, old)
        if feedback:
            a = jax.tree.map(lambda x, e: x + whole(e), a, state.error)

        def refresh():
            key = jax.random.fold_in(jax.random.key(0), state.count)
            keys = optax.tree_utils.tree_split_key_like(key, a)
            bases = jax.tree.map(lambda x, b, k: at(x, b).fit(x, b, k), a, old, keys)
            if not rotate_moments:
                return bases, ()

            def rotate(moments, absolute):
                def leaf(x, y, before, after):
                    return at(x, before).rotate(y, before, after, absolute=absolute)

                return jax.tree.map(leaf, a, moments, old, bases)

            return bases, _map_moments(rotate, state.inner)

        refreshed = (state.count == 0) | ((state.count + update_offset) % update_interval == 0)
        if isinstance(update_interval, int) and update_interval == 1:
            bases, rotated = refresh()
        else:
            kept = (old, state.inner if rotate_moments else ())
            bases, rotated = jax.lax.cond(refreshed, refresh, lambda: kept)

        r = jax.tree.map(lambda x, b: at(x, b).project(x, b), a, bases)
        n, inner_state = inner.update(
            r, rotated if rotate_moments else state.inner, None, refreshed=refreshed, **extra
        )

        def lift(x, y, b):
            return at(x, b).lift(y, b)

        def scaled_lift(x, y, b):
            return (scale(x.shape) if callable(scale) else scale) * lift(x, y, b)

        def left_out(x, part, y, z, b):
            return (x - part) * _norm_ratio(z, y, at(x, b).axes)

        u = jax.tree.map(scaled_lift, a, n, bases)
        error, residual_state = state.error, state.residual
        if feedback:
            part = jax.tree.map(lift, a, r, bases)
            error = jax.tree.map(
                lambda x, p, e: placed_like(x - error_feedback * p, e), a, part, error
            )
        if residual:
            part = jax.tree.map(lift if exact_residual else scaled_lift, a, r, bases)
            s = jax.tree.map(left_out, a, part, r, n, bases)
            s, residual_state = residual.update(s, state.residual)
            u = jax.tree.map(jnp.add, u, s)

        def rest(tree):
            return jax.tree.map(lambda g, b: None if b else g.astype(wide_dtype(g)), tree, old)

        plain, fallback_state = others.update(
            rest(updates), state.fallback, None if params is None else rest(params), **extra
        )
        chosen = jax.tree.map(lambda g, b, x, y: x if b else y, updates, bases, u, plain)
        new_updates = jax.tree.map(placed_like, chosen, updates)
        return new_updates, LowRankState(
            count=optax.safe_increment(state.count),
            bases=tuple(b or () for b in structure.flatten_up_to(bases)) or state.bases,
            inner=inner_state,
            fallback=fallback_state,
            error=error,
            residual=residual_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _plan(params, rank, side, projector, *, strict):
    """The projection of every leaf; if ``strict``, a leaf that has none is an error."""
    try:
        rank = operator.index(rank)
    except TypeError as error:
        raise ValueError(
            "rank must be a Python integer where init is traced: under inject_hyperparams name "
            "it in static_args."
        ) from error

    def leaf(path, p):
        where = Projection(p.shape, rank, side, projector)
        if strict and not where.axes:
            raise ValueError(
                f"rank {rank} leaves nothing to project in params{jax.tree_util.keystr(path)} of "
                f"shape {p.shape}; give a fallback for such leaves."
            )
        return where

    return jax.tree_util.tree_map_with_path(leaf, params)


def _norm_ratio(numerator, denominator, axes):
    """The ratio of norms over some axes; zero where the denominator is."""
    norm = safe_norm(denominator, axis=axes, keepdims=True)
    ratio = safe_norm(numerator, axis=axes, keepdims=True) / jnp.where(norm > 0, norm, 1)
    return jnp.where(norm > 0, ratio, 0)


# Fields of optax's states that hold moments, and whether they are of squares.
_MOMENTS = {"mu": False, "trace": False, "nu": True}


def _has_moments(state):
    return not _MOMENTS.keys().isdisjoint(getattr(state, "_fields", ()))


def _states(state):
    return jax.tree.leaves(state, is_leaf=_has_moments)


def _map_moments(function, state):
    """Applies ``function(moments, squares)`` to the trees of moments anywhere in a state."""

    def one(s):
        if not _has_moments(s):
            return s
        fields = [f for f in s._fields if f in _MOMENTS]
        return s._replace(**{f: function(getattr(s, f), _MOMENTS[f]) for f in fields})

    return jax.tree.map(one, state, is_leaf=_has_moments)
