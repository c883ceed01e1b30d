"""What the solvers share: a level's step, what a step reports, checks of what they are given."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optlab._batches import nth_batch
from optlab._checks import check_floats, check_like
from optlab.base import PyTree, Scalar

__all__ = [
    "BilevelInfo",
    "Project",
    "advance",
    "check_leading",
    "check_objectives",
    "check_projection",
    "fresh",
    "fresh_key",
    "identity",
    "known_ids",
    "pair_of_full",
    "put_rows",
    "report",
    "rows_of",
    "solve_inner",
    "start",
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


def fresh_key(key: jax.Array) -> jax.Array:
    """A copy of a key's raw data, which a step may donate without taking the caller's key away."""
    return fresh(jax.random.key_data(key))


def start(
    x: PyTree, y: PyTree, project_outer: Project = identity, project_inner: Project = identity
) -> tuple[PyTree, PyTree]:
    """Copies of both variables to start from, once their projections have been tried on them.

    Raises:
        TypeError: if a variable is not of floats, or a projection changes the form of one.
        ValueError: if it gives numbers that are not finite, as projections on empty sets do.
    """
    check_floats("x", x)
    check_floats("y", y)
    x, y = fresh(x), fresh(y)
    check_projection("project_outer", project_outer, "x", x)
    check_projection("project_inner", project_inner, "y", y)
    return x, y


def check_projection(name: str, project: Project, variable: str, point: PyTree) -> None:
    """Raises an error, as ``start`` does, of a projection that cannot be one."""
    if project is identity:
        return
    if not callable(project):
        raise TypeError(f"{name} must be a function, got {project!r}.")
    projected = project(point)
    check_like(f"what {name} gives", projected, variable, point)
    if _is_finite(point) and not _is_finite(projected):
        raise ValueError(
            f"{name} gives numbers that are not finite at the start: no {variable} may be in its"
            " set."
        )


def _is_finite(tree: PyTree) -> bool:
    """Whether all numbers are finite; those of traced arrays count as finite."""
    known = [x for x in jax.tree.leaves(tree) if not isinstance(x, jax.core.Tracer)]
    return all(bool(jnp.isfinite(x).all()) for x in known)


def known_ids(name: str, ids: Any, count: int) -> jax.Array:
    """Gives numbers of rows as an array; raises ValueError if one is known to be out of range."""
    if ids is None:
        raise ValueError(f"{name} must be given: integers in [0, {count}).")
    if not isinstance(ids, jax.core.Tracer):
        known = np.asarray(ids)
        if ((known < 0) | (known >= count)).any():
            raise ValueError(f"{name} must lie in [0, {count}), got {known.tolist()}.")
    return jnp.asarray(ids)


def rows_of(tree: PyTree, ids: jax.Array) -> PyTree:
    """Some rows of every leaf; NaN where a traced number is out of range, so that it shows."""
    return jax.tree.map(
        lambda leaf: leaf.at[ids].get(mode="fill", wrap_negative_indices=False), tree
    )


def put_rows(tree: PyTree, ids: jax.Array, rows: PyTree) -> PyTree:
    """The leaves with some of their rows replaced; none by a number that is out of range."""
    return jax.tree.map(
        lambda leaf, new: leaf.at[ids].set(new, wrap_negative_indices=False), tree, rows
    )


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
    fresh_batches: bool = False,
) -> PyTree:
    """Takes some steps of an optimizer that starts anew, from y towards the inner solution."""

    def move(t, carry):
        w, state = carry
        gradient = jax.grad(inner, argnums=1)(x, w, nth_batch(batch, t, fresh_batches))
        return advance(optimizer, gradient, state, w, project)

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
        try:
            value = jax.eval_shape(function, x, y, batch)
        except (AttributeError, TypeError) as error:
            if batch is not None:
                raise
            raise ValueError(f"{name} fails without {name}_batch: {error}") from error
        if getattr(value, "shape", None) != ():
            raise ValueError(f"{name} must return one scalar, without aux; got {value}.")


def pair_of_full(outer_full: PyTree, inner_full: PyTree) -> tuple[PyTree, PyTree] | None:
    """All data of both objectives, or None; raises ValueError if one lacks the other."""
    if (outer_full is None) != (inner_full is None):
        raise ValueError("outer_full and inner_full must be given together.")
    return None if outer_full is None else (outer_full, inner_full)


def check_leading(name: str, batches: PyTree, count: int, why: str) -> None:
    """Raises ValueError unless every leaf has a leading axis of ``count``."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(batches):
        if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] != count:
            raise ValueError(
                f"{name} must have a leading axis of {count}, {why}, but"
                f" {name}{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}."
            )
