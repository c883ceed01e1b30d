"""What the solvers share: a level's step, what a step reports, checks of what they are given."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab.base import PyTree, Scalar

__all__ = [
    "BilevelInfo",
    "Project",
    "advance",
    "check_objectives",
    "fresh",
    "identity",
    "nth_batch",
    "report",
    "solve_inner",
]

Project = Callable[[PyTree], PyTree]  # onto the set in which a variable is kept


class BilevelInfo(NamedTuple):
    """What a step of a solver reports: the norms of the directions it took."""

    outer_norm: Scalar  # of the estimated hypergradient, shape=()
    inner_norm: Scalar  # of the direction in the inner variable, shape=()
    linear_norm: Scalar  # of the residual of the linear system, shape=(); zero without one


def report(outer: PyTree, inner: PyTree, linear: PyTree = 0.0) -> BilevelInfo:
    """The norms of the two directions and of the linear residual; an array stands for itself."""

    def norm(tree):
        return jnp.asarray(optax.tree.norm(tree))

    return BilevelInfo(norm(outer), norm(inner), norm(linear))


def identity(tree: PyTree) -> PyTree:
    """No constraint."""
    return tree


def fresh(tree: PyTree) -> PyTree:
    """Copies of the leaves as arrays, so that a state never aliases what the caller holds."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


def nth_batch(batches: PyTree, n: Any) -> PyTree:
    """Gives one of the batches that lie along the leading axis."""
    return jax.tree.map(lambda leaf: leaf[n], batches)


def advance(
    optimizer: optax.GradientTransformation,
    direction: PyTree,
    state: optax.OptState,
    variable: PyTree,
    project: Project = identity,
) -> tuple[PyTree, optax.OptState]:
    """Moves a variable against a direction, by an optimizer, and back into its set."""
    updates, state = optimizer.update(direction, state, variable)
    return project(optax.apply_updates(variable, updates)), state


def solve_inner(
    inner: Callable,
    x: PyTree,
    y: PyTree,
    batch: PyTree,
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    project: Project,
) -> PyTree:
    """Takes some steps of an optimizer that starts anew, from y towards the inner solution."""

    def move(_, carry):
        w, state = carry
        return advance(optimizer, jax.grad(inner, argnums=1)(x, w, batch), state, w, project)

    return jax.lax.fori_loop(0, steps, move, (y, optimizer.init(y)))[0]


def check_objectives(
    outer: Callable, inner: Callable, x: PyTree, y: PyTree, outer_batch: PyTree, inner_batch: PyTree
) -> None:
    """Raises ValueError unless both objectives give a scalar on batches whose rows agree."""
    for name, function, batch in (("outer", outer, outer_batch), ("inner", inner, inner_batch)):
        rows = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(batch) if jnp.ndim(leaf)}
        if len(rows) > 1:
            raise ValueError(
                f"{name}_batch must have leaves of one leading size, got {sorted(rows)}."
            )
        value = jax.eval_shape(function, x, y, batch)
        if getattr(value, "shape", None) != ():
            raise ValueError(f"{name} must return one scalar, without aux; got {value}.")
