"""BSVRB: many inner problems of one outer variable, a few of them at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from optlab._checks import check_count, check_range
from optlab.base import PyTree, Solver
from optlab.bilevel._common import (
    Project,
    advance,
    check_objectives,
    fresh,
    identity,
    nth_batch,
    report,
)

__all__ = ["BsvrbState", "bsvrb"]


class BsvrbState(NamedTuple):
    """State of :func:`bsvrb`; what has a leading axis of blocks is written as [m, ...]."""

    count: jax.Array  # steps taken; shape=(), dtype=int32
    x: PyTree  # outer variable
    y: PyTree  # inner variables, [m, ...]
    v: PyTree  # solutions of the linear systems, like y; or () with Hessians
    old: tuple[PyTree, PyTree, PyTree]  # x, y and v of the step before
    gradient: PyTree  # estimates of the inner gradients, like y
    linear: PyTree  # estimates of the linear residuals, like y; or of the Hessians, [m, n, n]
    direction: PyTree  # estimate of the hypergradient, like x
    outer_optimizer: optax.OptState  # of x
    inner_optimizer: optax.OptState  # of each y, [m, ...]
    linear_optimizer: optax.OptState  # of each v, [m, ...]; or ()


def bsvrb(
    outer: Callable,
    inner: Callable,
    *,
    blocks: int,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    linear_optimizer: optax.GradientTransformation | None = None,
    inner_weight: float = 0.1,
    outer_weight: float = 0.05,
    smallest_eigenvalue: float = 1e-3,
    project_outer: Project = identity,
    project_linear: Project = identity,
) -> Solver:
    r"""Blockwise stochastic variance-reduced bilevel optimization.

    .. math::
        \min_x \frac1m \sum_{i=1}^m f_i\big(x, y_i^*(x)\big), \qquad
        y_i^*(x) = \arg\min_y g_i(x, y)

    A step draws I of the m blocks, and for each of them, with :math:`\beta = (m - I) / (I (1 -
    \alpha)) + 1 - \alpha`, updates the estimate of its inner gradient

    .. math::
        s_i \leftarrow (1 - \alpha) s_i + \alpha\, G_i(z_t) + \beta \big(G_i(z_t) - G_i(z_{t-1})
            \big)

    on one batch, moves :math:`y_i` along it, and does the same with the linear system; x follows a
    recursive momentum of the mean over the drawn blocks. With ``linear_optimizer`` each
    :math:`v_i` moves along an estimate of :math:`g_{yy} v_i - f_y` (version 2); without it the
    Hessians themselves are estimated and inverted (version 1: n x n numbers a block).

    ``state = solver.init(key, x, y)`` with y of m blocks; ``state, info = solver.step(state,
    outer_batch, inner_batch, block_ids=ids)``, where the batches hold one batch a drawn block.

    Args:
        outer: :math:`f_i`, a function ``(x, y_i, batch_i) -> scalar`` of one block.
        inner: :math:`g_i`, likewise, strongly convex in y.
        blocks: m.
        outer_optimizer: any optax transformation, for x.
        inner_optimizer: for each y, with a state for each; beyond half of I / m for a plain step
            (at a smoothness of one) the extrapolation diverges.
        linear_optimizer: for each v; None for version 1.
        inner_weight: :math:`\alpha` in (0, 1).
        outer_weight: the recursive momentum's weight of the new value, in (0, 1].
        smallest_eigenvalue: of the estimated Hessians; smaller ones are lifted to it.
        project_outer: onto the set in which x is kept.
        project_linear: onto the set, such as a ball, in which each v is kept.

    Returns:
        The solver; its info is a :class:`BilevelInfo`, of the drawn blocks. The key is not used.

    Raises:
        ValueError: if a number is out of range, y does not have ``blocks`` rows, ``block_ids`` is
            missing or, outside ``jit``, out of range, or a loss is no scalar.

    >>> f, g = lambda x, y, b: (y - 1) ** 2 + x**2, lambda x, y, b: (y - b * x) ** 2
    >>> solver = bsvrb(f, g, blocks=2, outer_optimizer=optax.sgd(0.05),
    ...                inner_optimizer=optax.sgd(0.1), linear_optimizer=optax.sgd(0.1))
    >>> state = solver.init(jax.random.key(0), jnp.array(0.0), jnp.zeros(2))
    >>> both, slopes = jnp.arange(2), jnp.array([1.0, 2.0])
    >>> step = lambda s, _: solver.step(s, slopes, slopes, block_ids=both)
    >>> round(float(jax.lax.scan(step, state, length=400)[0].x), 3)
    0.429

    References:
        Q. Hu, Z.-H. Qiu, Z. Guo, L. Zhang, T. Yang, "Blockwise Stochastic Variance-Reduced Methods
        with Parallel Speedup for Multi-Block Bilevel Optimization", ICML 2023, arXiv:2305.18730

    Differs from the paper: any optimizer takes the steps, and the first estimate of a block is its
    first value. The authors released no code.
    """
    check_count("blocks", blocks, 1)
    check_range("inner_weight", inner_weight, 0.0, 1.0, closed="()")
    check_range("outer_weight", outer_weight, 0.0, 1.0, closed="(]")
    check_range("smallest_eigenvalue", smallest_eigenvalue, 0.0, float("inf"), closed="()")
    dense = linear_optimizer is None

    def inner_gradient(x, y, batch):
        return jax.grad(inner, argnums=1)(x, y, batch)

    def hessian(x, y, batch):
        flat, unravel = ravel_pytree(y)

        def row(e):
            return jax.jvp(lambda y: inner_gradient(x, y, batch), (y,), (unravel(e),))[1]

        return jax.vmap(lambda e: ravel_pytree(row(e))[0])(jnp.eye(flat.size, dtype=flat.dtype))

    def residual(x, y, v, outer_batch, inner_batch):
        product = jax.jvp(lambda y: inner_gradient(x, y, inner_batch), (y,), (v,))[1]
        return optax.tree.sub(product, jax.grad(outer, argnums=1)(x, y, outer_batch))

    def hypergradient(x, y, v, outer_batch, inner_batch):
        cross = jax.grad(lambda x: optax.tree.vdot(inner_gradient(x, y, inner_batch), v))(x)
        return optax.tree.sub(jax.grad(outer)(x, y, outer_batch), cross)

    def invert(matrix, x, y, outer_batch):
        """v of a block, from its estimated Hessian."""
        flat, unravel = ravel_pytree(jax.grad(outer, argnums=1)(x, y, outer_batch))
        values, vectors = jnp.linalg.eigh(0.5 * (matrix + matrix.T))
        lifted = jnp.maximum(values, smallest_eigenvalue)
        return unravel(vectors @ ((vectors.T @ flat) / lifted))

    def rows_of(tree, ids):
        return jax.tree.map(lambda leaf: leaf[ids], tree)

    def put(tree, ids, rows):
        return jax.tree.map(lambda leaf, new: leaf.at[ids].set(new), tree, rows)

    def init(key, x, y):
        del key
        x, y = fresh(x), fresh(y)
        sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(y)}
        if sizes != {(blocks,)}:
            raise ValueError(f"y must have a leading axis of {blocks} blocks, got {sizes}.")
        size = sum(leaf.size for leaf in jax.tree.leaves(y)) // blocks
        zero = optax.tree.zeros_like
        dtype = jnp.result_type(*jax.tree.leaves(y))
        return BsvrbState(
            count=jnp.zeros((), jnp.int32),
            x=x,
            y=y,
            v=() if dense else zero(y),
            old=(fresh(x), fresh(y), () if dense else zero(y)),
            gradient=zero(y),
            linear=jnp.zeros((blocks, size, size), dtype) if dense else zero(y),
            direction=zero(x),
            outer_optimizer=outer_optimizer.init(x),
            inner_optimizer=jax.vmap(inner_optimizer.init)(y),
            linear_optimizer=() if dense else jax.vmap(linear_optimizer.init)(zero(y)),
        )

    def step(state, outer_batch, inner_batch, *, block_ids=None, **extra):
        del extra
        ids = _check_ids(block_ids, blocks)
        drawn = ids.shape[0]
        gain = (blocks - drawn) / (drawn * (1 - inner_weight)) + 1 - inner_weight
        x, old_x = state.x, state.old[0]
        y, old_y = rows_of(state.y, ids), rows_of(state.old[1], ids)
        check_objectives(
            outer, inner, x, nth_batch(y, 0), *(nth_batch(b, 0) for b in (outer_batch, inner_batch))
        )
        first = state.count == 0

        def estimate(last, new, old):
            """The estimate of a block from its last one; at the first step the value itself."""
            moved = (1 - inner_weight) * last + inner_weight * new + gain * (new - old)
            return jnp.where(first, new, moved)

        def tracked(function, last, *at):
            """New estimates of the drawn rows, from values at the new and at the old point."""
            now, before = (jax.vmap(function, (None, *axes))(*args) for args, axes in at)
            return jax.tree.map(estimate, rows_of(last, ids), now, before)

        s = tracked(
            inner_gradient,
            state.gradient,
            ((x, y, inner_batch), (0, 0)),
            ((old_x, old_y, inner_batch), (0, 0)),
        )
        if dense:
            u = tracked(
                hessian,
                state.linear,
                ((x, y, inner_batch), (0, 0)),
                ((old_x, old_y, inner_batch), (0, 0)),
            )
            v = jax.vmap(invert, (0, None, 0, 0))(u, x, y, outer_batch)
            old_v, error = v, jnp.zeros(())
        else:
            v, old_v = rows_of(state.v, ids), rows_of(state.old[2], ids)
            u = tracked(
                residual,
                state.linear,
                ((x, y, v, outer_batch, inner_batch), (0, 0, 0, 0)),
                ((old_x, old_y, old_v, outer_batch, inner_batch), (0, 0, 0, 0)),
            )
            error = optax.tree.norm(u)

        def mean_hypergradient(x, y, v):
            values = jax.vmap(hypergradient, (None, 0, 0, 0, 0))(x, y, v, outer_batch, inner_batch)
            return jax.tree.map(lambda h: jnp.mean(h, axis=0), values)

        now, before = mean_hypergradient(x, y, v), mean_hypergradient(old_x, old_y, old_v)
        keep = jnp.where(first, 0.0, 1.0 - outer_weight)
        direction = jax.tree.map(
            lambda n, d, b: n + (keep * (d - b)).astype(n.dtype), now, state.direction, before
        )
        new_x, outer_state = advance(
            outer_optimizer, direction, state.outer_optimizer, x, project_outer
        )

        def advance_rows(optimizer, along, states, rows, project):
            move = jax.vmap(lambda d, s, r: advance(optimizer, d, s, r, project))
            new, new_states = move(along, rows_of(states, ids), rows)
            return new, put(states, ids, new_states)

        new_y, inner_state = advance_rows(inner_optimizer, s, state.inner_optimizer, y, identity)
        linear_state, new_v = (), ()
        if not dense:
            new_v, linear_state = advance_rows(
                linear_optimizer, u, state.linear_optimizer, v, project_linear
            )
            new_v = put(state.v, ids, new_v)
        info = report(direction, s, error)
        return (
            BsvrbState(
                count=optax.safe_increment(state.count),
                x=new_x,
                y=put(state.y, ids, new_y),
                v=new_v,
                old=(x, state.y, state.v),
                gradient=put(state.gradient, ids, s),
                linear=put(state.linear, ids, u),
                direction=direction,
                outer_optimizer=outer_state,
                inner_optimizer=inner_state,
                linear_optimizer=linear_state,
            ),
            info,
        )

    return Solver(init, step)


def _check_ids(block_ids: Any, blocks: int) -> jax.Array:
    if block_ids is None:
        raise ValueError("block_ids must be given: the numbers of the drawn blocks.")
    if not isinstance(block_ids, jax.core.Tracer):
        known = np.asarray(block_ids)
        if ((known < 0) | (known >= blocks)).any():
            raise ValueError(f"block_ids must lie in [0, {blocks}), got {known.tolist()}.")
    return jnp.asarray(block_ids)
