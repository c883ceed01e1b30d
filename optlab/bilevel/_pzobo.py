"""PZOBO: the response of the inner solution from runs at perturbed outer variables."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._batches import nth_batch
from optlab._checks import check_count, check_range
from optlab.base import PyTree, Solver
from optlab.bilevel._common import (
    Project,
    advance,
    check_leading,
    check_objectives,
    fresh_key,
    identity,
    report,
    solve_inner,
    start,
)

__all__ = ["PzoboState", "pzobo"]


class PzoboState(NamedTuple):
    """State of :func:`pzobo`."""

    x: PyTree  # outer variable
    y: PyTree  # inner variable
    outer_optimizer: optax.OptState  # of x
    key: jax.Array  # raw data of the next step's key, dtype=uint32


def pzobo(
    outer: Callable,
    inner: Callable,
    *,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    inner_steps: int = 10,
    mu: float = 0.1,
    samples: int = 10,
    fresh_batches: bool = False,
    project_outer: Project = identity,
    project_inner: Project = identity,
) -> Solver:
    r"""Partial zeroth-order bilevel optimizer: no second derivative is taken.

    With :math:`y_T(x)` what T inner steps make of the last y,

    .. math::
        h = f_x + \frac1Q \sum_{j=1}^Q u_j \Big\langle
            \frac{y_T(x + \mu u_j) - y_T(x)}{\mu}, f_y \Big\rangle, \qquad
        u_j \sim \mathcal{N}(0, I), \qquad x \leftarrow x - \gamma h

    Its mean is the hypergradient through the T steps, as :func:`optlab.hypergrad.unrolled` has it,
    up to :math:`O(\mu)`; its variance grows with the size of x and falls as 1 / Q. The Q + 1 runs
    are made at once, with as many inner variables in memory.

    Args:
        outer: f, a function ``(x, y, batch) -> scalar``.
        inner: g, likewise.
        outer_optimizer: any optax transformation, for x.
        inner_optimizer: for y; it starts anew in each step.
        inner_steps: T, at least 1.
        mu: :math:`\mu > 0`, the length of the perturbations, in units of x.
        samples: Q, at least 1.
        fresh_batches: whether each inner step has a batch of its own: the leaves of ``inner_batch``
            then have a leading axis of T. All runs see the same batches.
        project_outer: onto the set in which x is kept; perturbed ones may leave it.
        project_inner: onto the set in which y is kept.

    Returns:
        The solver; its info is a :class:`BilevelInfo`.

    Raises:
        ValueError: if a number is out of range, a loss is no scalar, or a batch's leaves differ in
            their leading size.

    >>> f, g = lambda x, y, b: (y - 1) ** 2 + x**2, lambda x, y, b: (y - x) ** 2
    >>> sgd = optax.sgd(0.1)
    >>> solver = pzobo(f, g, outer_optimizer=sgd, inner_optimizer=sgd, samples=40)
    >>> state = solver.init(jax.random.key(0), 0.0, 0.0)
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=100)
    >>> abs(float(state.x) - 0.5) < 0.1
    True

    References:
        D. Sow, K. Ji, Y. Liang, "On the Convergence Theory for Hessian-Free Bilevel Algorithms",
        NeurIPS 2022, arXiv:2110.07004
    """
    check_count("inner_steps", inner_steps, 1)
    check_count("samples", samples, 1)
    check_range("mu", mu, 0.0, float("inf"), closed="()")

    def init(key, x, y):
        x, y = start(x, y, project_outer, project_inner)
        return PzoboState(x, y, outer_optimizer.init(x), fresh_key(key))

    def step(state, outer_batch, inner_batch, **extra):
        del extra
        x = state.x
        if fresh_batches:
            check_leading("inner_batch", inner_batch, inner_steps, "one an inner step")
        last = nth_batch(inner_batch, -1, fresh_batches)
        check_objectives(outer, inner, x, state.y, outer_batch, last)
        carried, used = jax.random.split(jax.random.wrap_key_data(state.key))

        def reached(x):
            return solve_inner(
                inner,
                x,
                state.y,
                inner_batch,
                optimizer=inner_optimizer,
                steps=inner_steps,
                project=project_inner,
                fresh_batches=fresh_batches,
            )

        y = reached(x)
        f_x, f_y = jax.grad(outer, argnums=(0, 1))(x, y, outer_batch)

        def product(key):
            """One sample of the product with the transposed response."""
            u = optax.tree.random_like(key, x)
            change = optax.tree.sub(reached(optax.tree.add_scale(x, mu, u)), y)
            return optax.tree.scale(optax.tree.vdot(change, f_y) / mu, u)

        products = jax.vmap(product)(jax.random.split(used, samples))
        response = jax.tree.map(lambda p: jnp.mean(p, axis=0), products)
        hypergradient = jax.tree.map(lambda f, r: f + r.astype(f.dtype), f_x, response)
        x, outer_state = advance(
            outer_optimizer, hypergradient, state.outer_optimizer, x, project_outer
        )
        info = report(hypergradient, jax.grad(inner, argnums=1)(state.x, y, last))
        return PzoboState(x, y, outer_state, jax.random.key_data(carried)), info

    return Solver(init, step)
