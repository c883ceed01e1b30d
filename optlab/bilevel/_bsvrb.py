"""BSVRB: many inner problems of one outer variable, a few of them at a time."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from optlab._batches import nth_batch
from optlab._checks import check_count, check_range
from optlab.base import PyTree, Solver
from optlab.bilevel._common import (
    Project,
    advance,
    check_leading,
    check_objectives,
    identity,
    known_ids,
    put_rows,
    report,
    rows_of,
    start,
)
from optlab.bilevel._directions import MsvrState, StormState, msvr, storm

__all__ = ["BsvrbState", "bsvrb"]


class BsvrbState(NamedTuple):
    """State of :func:`bsvrb`; what has a leading axis of blocks is written as [m, ...]."""

    count: jax.Array  # steps taken; shape=(), dtype=int32
    x: PyTree  # outer variable
    y: PyTree  # inner variables, [m, ...]
    v: PyTree  # solutions of the linear systems, like y; or () with Hessians
    blocks: MsvrState  # inner gradients, [m, ...], and linear residuals, or Hessians [m, n, n]
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

    A step draws I of the m blocks, and for each of them updates an estimate of its inner gradient
    by :func:`msvr`, moves :math:`y_i` along it, and does the same with the linear system; x follows
    the recursive momentum (:func:`storm`) of the mean hypergradient of the drawn blocks. With
    ``linear_optimizer`` each :math:`v_i` moves along an estimate of :math:`g_{yy} v_i - f_y`
    (version 2); without it the Hessians themselves are estimated and inverted (version 1: n x n
    numbers a block).

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
        inner_weight: of the new values in the blocks' estimates, in (0, 1).
        outer_weight: of the new value in the estimate of the hypergradient, in (0, 1].
        smallest_eigenvalue: of the estimated Hessians; smaller ones are lifted to it.
        project_outer: onto the set in which x is kept.
        project_linear: onto the set, such as a ball, in which each v is kept.

    Returns:
        The solver; its info is a :class:`BilevelInfo`, of the drawn blocks. The key is not used.

    Raises:
        ValueError: if a number is out of range, y does not have ``blocks`` rows, ``block_ids`` is
            missing or, outside ``jit``, out of range, a batch does not have one row a drawn block,
            or a loss is no scalar. Within ``jit`` x becomes NaN where an id is out of range.

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
    block_direction, outer_direction = msvr(blocks, inner_weight), storm(outer_weight)

    def inner_gradient(x, y, batch):
        return jax.grad(inner, argnums=1)(x, y, batch)

    def hessian(x, y, batch):
        flat, unravel = ravel_pytree(y)

        def row(e):
            return jax.jvp(lambda y: inner_gradient(x, y, batch), (y,), (unravel(e),))[1]

        return jax.vmap(lambda e: ravel_pytree(row(e))[0])(jnp.eye(flat.size, dtype=flat.dtype))

    def followed(x, y, v, outer_batch, inner_batch):
        """Of one block: its inner gradient, and its linear residual or its Hessian."""
        if dense:
            return inner_gradient(x, y, inner_batch), hessian(x, y, inner_batch)
        gradient, product = jax.jvp(lambda y: inner_gradient(x, y, inner_batch), (y,), (v,))
        return gradient, optax.tree.sub(product, jax.grad(outer, argnums=1)(x, y, outer_batch))

    def block_oracle(point, batch):
        x, y, v = point
        ids, *rows = batch
        return jax.vmap(followed, (None, 0, 0, 0, 0))(x, rows_of(y, ids), rows_of(v, ids), *rows)

    def hypergradient(x, y, v, outer_batch, inner_batch):
        cross = jax.grad(lambda x: optax.tree.vdot(inner_gradient(x, y, inner_batch), v))(x)
        return optax.tree.sub(jax.grad(outer)(x, y, outer_batch), cross)

    def outer_oracle(point, batch):
        x, y, v = point
        ids, inverted, *rows = batch
        v = inverted if dense else rows_of(v, ids)
        values = jax.vmap(hypergradient, (None, 0, 0, 0, 0))(x, rows_of(y, ids), v, *rows)
        return jax.tree.map(lambda h: jnp.mean(h, axis=0), values)

    def invert(matrix, x, y, outer_batch):
        """v of a block, from its estimated Hessian."""
        flat, unravel = ravel_pytree(jax.grad(outer, argnums=1)(x, y, outer_batch))
        values, vectors = jnp.linalg.eigh(0.5 * (matrix + matrix.T))
        lifted = jnp.maximum(values, smallest_eigenvalue)
        return unravel(vectors @ ((vectors.T @ flat) / lifted))

    def advance_rows(optimizer, along, states, tree, ids, project=identity):
        """Moves some rows, each by a state of its own."""
        move = jax.vmap(lambda d, s, r: advance(optimizer, d, s, r, project))
        rows, new = move(along, rows_of(states, ids), rows_of(tree, ids))
        return put_rows(tree, ids, rows), put_rows(states, ids, new)

    def init(key, x, y):
        del key
        x, y = start(x, y, project_outer)
        sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(y)}
        if sizes != {(blocks,)}:
            raise ValueError(f"y must have a leading axis of {blocks} blocks, got {sizes}.")
        one = nth_batch(y, 0)
        v, like = () if dense else optax.tree.zeros_like(y), (one, one)
        if dense:
            flat = ravel_pytree(one)[0]
            like = (one, jnp.zeros((flat.size, flat.size), flat.dtype))
        return BsvrbState(
            count=jnp.zeros((), jnp.int32),
            x=x,
            y=y,
            v=v,
            blocks=block_direction.init(like, (x, y, v)),
            direction=optax.tree.zeros_like(x),
            outer_optimizer=outer_optimizer.init(x),
            inner_optimizer=jax.vmap(inner_optimizer.init)(y),
            linear_optimizer=() if dense else jax.vmap(linear_optimizer.init)(v),
        )

    def step(state, outer_batch, inner_batch, *, block_ids=None, **extra):
        del extra
        ids = known_ids("block_ids", block_ids, blocks)
        if ids.ndim != 1 or not jnp.issubdtype(ids.dtype, jnp.integer):
            raise ValueError(
                f"block_ids must be a vector of integers, got {ids.dtype}{list(ids.shape)}."
            )
        x, y, v = point = state.x, state.y, state.v
        batches = (outer_batch, inner_batch)
        check_leading("outer_batch", outer_batch, ids.shape[0], "a row for each of block_ids")
        check_leading("inner_batch", inner_batch, ids.shape[0], "a row for each of block_ids")
        check_objectives(outer, inner, x, nth_batch(y, 0), *nth_batch(batches, 0))
        (gradient, linear), memory = block_direction.estimate(
            block_oracle, point, (ids, *batches), state.blocks, index=ids
        )
        inverted, error = (), 0.0
        if dense:
            inverted = jax.vmap(invert, (0, None, 0, 0))(linear, x, rows_of(y, ids), outer_batch)
        # Both directions were last at the same point: it is kept once.
        direction, _ = outer_direction.estimate(
            outer_oracle,
            point,
            (ids, inverted, *batches),
            StormState(state.count, state.blocks.point, state.direction),
        )
        x, outer_state = advance(
            outer_optimizer, direction, state.outer_optimizer, x, project_outer
        )
        y, inner_state = advance_rows(inner_optimizer, gradient, state.inner_optimizer, y, ids)
        linear_state = ()
        if not dense:
            error = linear
            v, linear_state = advance_rows(
                linear_optimizer, linear, state.linear_optimizer, v, ids, project_linear
            )
        count = optax.safe_increment(state.count)
        states = (outer_state, inner_state, linear_state)
        return BsvrbState(count, x, y, v, memory, direction, *states), report(
            direction, gradient, error
        )

    return Solver(init, step)
