"""STN: the inner variable learns how to answer the outer one, which follows that answer."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._batches import nth_batch
from optlab._checks import check_count, check_range
from optlab._sharding import rows_like
from optlab.base import PyTree, Solver
from optlab.bilevel._common import (
    Project,
    advance,
    check_leading,
    check_objectives,
    fresh_key,
    identity,
    report,
    start,
)

__all__ = ["StnState", "stn"]


class StnState(NamedTuple):
    """State of :func:`stn`."""

    x: PyTree  # outer variable
    scale: PyTree  # of its perturbations, softplus of this, like x
    y: PyTree  # inner variable: parameters of the response
    outer_optimizer: optax.OptState  # of x
    scale_optimizer: optax.OptState  # of the scale; or ()
    inner_optimizer: optax.OptState  # of y
    key: jax.Array  # raw data of the next step's key, dtype=uint32


def stn(
    outer: Callable,
    inner: Callable,
    *,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    scale_optimizer: optax.GradientTransformation | None = None,
    sigma: float = 0.5,
    entropy_weight: float = 1e-3,
    inner_steps: int = 2,
    per_example: bool = True,
    fresh_batches: bool = False,
    project_outer: Project = identity,
) -> Solver:
    r"""Self-tuning networks: hyperparameters x are tuned while a network y trains once.

    The network takes x as an input: y holds the parameters of a response, from x to the weights
    that are best for it, such as ``HyperDense`` of :mod:`optlab.training.models` has them. A step
    teaches it T times how the weights should answer small changes of x, and then moves x along the
    answer:

    .. math::
        y \leftarrow y - \rho\, \nabla_y\, \mathbb{E}_e\, g(x + \sigma e, y), \qquad
        (x, \sigma) \leftarrow (x, \sigma) - \gamma\, \nabla_{x, \sigma} \big(
            \mathbb{E}_e\, f(x + \sigma e, y) - \tau \textstyle\sum \log \sigma \big)

    with :math:`e \sim \mathcal{N}(0, I)`. The scale :math:`\sigma`, one for each number in x, is
    learnt with a ``scale_optimizer``: the entropy term widens it until the response cannot follow.
    Without one it stays, and f is taken at x itself.

    ``state = solver.init(key, x, y)``; ``state, info = solver.step(state, outer_batch,
    inner_batch)``. Both objectives evaluate the response inside, at the x that they are given:
    ``inner`` with noise such as dropout at a rate in x, ``outer`` without. Keep x unbounded and map
    it to a range there (by a sigmoid, or exp). Warm up by an outer schedule that starts with zeros.

    Args:
        outer: f, a function ``(x, y, batch) -> scalar``, such as a loss on held-out examples.
        inner: g, likewise, such as a regularised loss on the others.
        outer_optimizer: any optax transformation, for x.
        inner_optimizer: for y.
        scale_optimizer: for the numbers whose softplus is :math:`\sigma`; None keeps them.
        sigma: :math:`\sigma > 0` at the start, in units of x.
        entropy_weight: :math:`\tau \ge 0`.
        inner_steps: T, at least 1.
        per_example: whether each row of a batch has a perturbation of its own. The objectives are
            then given one row at a time, as a batch of one, and their values averaged: by ``vmap``,
            in which the products with the weights that all rows share stay whole.
        fresh_batches: whether each inner step has a batch of its own: the leaves of ``inner_batch``
            then have a leading axis of T.
        project_outer: onto the set in which x is kept; perturbed ones may leave it.

    Returns:
        The solver; its info is a :class:`BilevelInfo`.

    Raises:
        ValueError: if a number is out of range, a loss is no scalar, or a batch's leaves differ in
            their leading size, or have none where they are taken row by row.

    >>> weight = lambda x, y: y[0] + y[1] * x  # a linear response
    >>> f = lambda x, y, b: (weight(x, y) - 1) ** 2 + x**2
    >>> g = lambda x, y, b: (weight(x, y) - x) ** 2  # whose best weight is x
    >>> solver = stn(f, g, outer_optimizer=optax.sgd(0.05), inner_optimizer=optax.sgd(0.1),
    ...              per_example=False)
    >>> state = solver.init(jax.random.key(0), 0.0, (0.0, 0.0))
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, None, None), state, length=400)
    >>> round(float(state.x), 2)
    0.5

    References:
        M. MacKay, P. Vicol, J. Lorraine, D. Duvenaud, R. Grosse, "Self-Tuning Networks: Bilevel
        Optimization of Hyperparameters using Structured Best-Response Functions", ICLR 2019,
        arXiv:1903.03088

    Differs from the paper: f's own derivative in x counts too. As in the released code, a scale
    that is not learnt does not perturb f.
    """
    check_count("inner_steps", inner_steps, 1)
    check_range("sigma", sigma, 0.0, float("inf"), closed="()")
    check_range("entropy_weight", entropy_weight, 0.0, float("inf"))

    def perturbed(key, x, scale, batch):
        """x, moved at random; with a leading axis of the batch's rows if each has its own."""
        leaves, structure = jax.tree.flatten(x)
        keys = structure.unflatten(jax.random.split(key, len(leaves)))
        row = jax.tree.leaves(batch)[0] if per_example else None

        def move(k, center, s):
            if row is None:
                return center + jax.nn.softplus(s) * jax.random.normal(
                    k, center.shape, center.dtype
                )
            noise = jax.random.normal(k, (row.shape[0], *center.shape), center.dtype)
            return rows_like(center[None] + jax.nn.softplus(s)[None] * noise, row)

        return jax.tree.map(move, keys, x, scale)

    def mean(objective, xs, y, batch):
        if not per_example:
            return objective(xs, y, batch)
        ones = jax.tree.map(lambda leaf: leaf[:, None], batch)
        return jnp.mean(jax.vmap(objective, (0, None, 0))(xs, y, ones))

    def init(key, x, y):
        x, y = start(x, y, project_outer)
        unbounded = sigma + jnp.log(-jnp.expm1(-sigma))  # whose softplus is sigma
        scale = jax.tree.map(lambda leaf: jnp.full_like(leaf, unbounded), x)
        return StnState(
            x=x,
            scale=scale,
            y=y,
            outer_optimizer=outer_optimizer.init(x),
            scale_optimizer=() if scale_optimizer is None else scale_optimizer.init(scale),
            inner_optimizer=inner_optimizer.init(y),
            key=fresh_key(key),
        )

    def step(state, outer_batch, inner_batch, **extra):
        del extra
        if fresh_batches:
            check_leading("inner_batch", inner_batch, inner_steps, "one an inner step")
        last = nth_batch(inner_batch, -1, fresh_batches)
        check_objectives(outer, inner, state.x, state.y, outer_batch, last)
        if per_example:
            _check_rows("inner_batch", last)
            _check_rows("outer_batch", outer_batch)
        carried, outer_key, inner_key = jax.random.split(jax.random.wrap_key_data(state.key), 3)

        def inner_step(t, carry):
            y, optimizer, _ = carry
            batch = nth_batch(inner_batch, t, fresh_batches)
            xs = perturbed(jax.random.fold_in(inner_key, t), state.x, state.scale, batch)
            gradient = jax.grad(lambda y: mean(inner, xs, y, batch))(y)
            return *advance(inner_optimizer, gradient, optimizer, y), optax.tree.norm(gradient)

        norm = jax.eval_shape(optax.tree.norm, state.y)
        y, inner_state, inner_norm = jax.lax.fori_loop(
            0,
            inner_steps,
            inner_step,
            (state.y, state.inner_optimizer, jnp.zeros(norm.shape, norm.dtype)),
        )

        def objective(x, scale):
            xs = perturbed(outer_key, x, scale, outer_batch)
            entropy = sum(jnp.sum(jnp.log(jax.nn.softplus(s))) for s in jax.tree.leaves(scale))
            return mean(outer, xs, y, outer_batch) - entropy_weight * entropy

        scale, scale_state = state.scale, ()
        if scale_optimizer is None:
            along_x = jax.grad(outer)(state.x, y, outer_batch)
        else:
            along_x, along_scale = jax.grad(objective, argnums=(0, 1))(state.x, scale)
            scale, scale_state = advance(scale_optimizer, along_scale, state.scale_optimizer, scale)
        x, outer_state = advance(
            outer_optimizer, along_x, state.outer_optimizer, state.x, project_outer
        )
        key = jax.random.key_data(carried)
        return (
            StnState(x, scale, y, outer_state, scale_state, inner_state, key),
            report(along_x, inner_norm),
        )

    return Solver(init, step)


def _check_rows(name: str, batch: PyTree) -> None:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
    if not shapes or () in shapes:
        raise ValueError(f"{name} must have a leading axis of rows with per_example, got {shapes}.")
