"""Many inner problems of which none comes twice: meta-learning."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._checks import check_count
from optlab.base import PyTree, Scalar, Solver
from optlab.bilevel._common import (
    Project,
    advance,
    check_objectives,
    fresh_key,
    identity,
    solve_inner,
    start,
)
from optlab.hypergrad import Estimator

__all__ = ["EpisodicInfo", "EpisodicState", "episodic"]


class EpisodicState(NamedTuple):
    """State of :func:`episodic`."""

    x: PyTree  # outer variable
    y: PyTree  # where the inner variable of every task starts
    outer_optimizer: optax.OptState  # of x
    key: jax.Array  # raw data of the next step's key, dtype=uint32


class EpisodicInfo(NamedTuple):
    """What a step of :func:`episodic` reports."""

    outer_norm: Scalar  # of the mean hypergradient, shape=()
    inner_distance: Scalar  # that y has moved from its start, mean over the tasks, shape=()
    failed: Scalar  # part of the tasks whose hypergradient the estimator does not vouch for


def episodic(
    outer: Callable,
    inner: Callable,
    *,
    outer_optimizer: optax.GradientTransformation,
    inner_optimizer: optax.GradientTransformation,
    estimator: Estimator,
    inner_steps: int = 0,
    tasks_at_once: int | None = None,
    project_outer: Project = identity,
) -> Solver:
    r"""Solves the inner problem of each task from the same start, and moves x along the mean.

    .. math::
        y_t = \Phi^T_t(x, y_0), \qquad x \leftarrow x - \gamma\, \tfrac1n \sum_t h_t(x, y_t)

    With :func:`optlab.problems.few_shot`, an unrolled estimator and no inner steps of its own this
    is :func:`maml`, with conjugate gradients :func:`imaml`; with
    :func:`optlab.problems.hyper_representation` it learns features across tasks.

    ``state = solver.init(key, x, y)``; ``state, info = solver.step(state, outer_batch,
    inner_batch)``: the leaves of both batches have a leading axis of tasks.

    Args:
        outer: f, a function ``(x, y, batch) -> scalar`` of one task.
        inner: g, likewise.
        outer_optimizer: any optax transformation, for x.
        inner_optimizer: for y; it starts anew with every task.
        estimator: of the hypergradient of one task, from :mod:`optlab.hypergrad`.
        inner_steps: T, before the estimator; zero for one that steps itself.
        tasks_at_once: how many tasks are computed side by side, the others in turn; None takes all.
            On a CPU, convolutions whose weights differ from task to task are faster in turn.
        project_outer: onto the set in which x is kept.

    Returns:
        The solver; its info is an :class:`EpisodicInfo`.

    Raises:
        ValueError: if a number is out of range, a loss is no scalar, or the batches differ in their
            number of tasks.

    >>> from optlab import hypergrad
    >>> f, g = lambda x, y, b: (y - b) ** 2, lambda x, y, b: (y - x) ** 2
    >>> solver = episodic(f, g, outer_optimizer=optax.sgd(0.1), inner_optimizer=optax.sgd(0.5),
    ...                   estimator=hypergrad.cg(), inner_steps=1)
    >>> state, tasks = solver.init(jax.random.key(0), 0.0, 0.0), jnp.array([1.0, 3.0])
    >>> state, _ = jax.lax.scan(lambda s, _: solver.step(s, tasks, tasks), state, length=50)
    >>> round(float(state.x), 3)
    2.0

    References:
        A. Rajeswaran, C. Finn, S. Kakade, S. Levine, "Meta-Learning with Implicit Gradients",
        NeurIPS 2019, arXiv:1909.04630
    """
    check_count("inner_steps", inner_steps, 0)
    if tasks_at_once is not None:
        check_count("tasks_at_once", tasks_at_once, 1)

    def init(key, x, y):
        x, y = start(x, y, project_outer)
        return EpisodicState(x, y, outer_optimizer.init(x), fresh_key(key))

    def step(state, outer_batch, inner_batch, **extra):
        del extra
        x, origin = state.x, state.y
        tasks = _tasks(outer_batch, inner_batch)
        first = jax.eval_shape(
            lambda: jax.tree.map(lambda leaf: leaf[0], (outer_batch, inner_batch))
        )
        _check_task(outer, inner, x, origin, *first)
        carried, used = jax.random.split(jax.random.wrap_key_data(state.key))

        def task(batches):
            outer_batch, inner_batch, key = batches
            y = solve_inner(
                inner,
                x,
                origin,
                inner_batch,
                optimizer=inner_optimizer,
                steps=inner_steps,
                project=identity,
            )
            h, info = estimator.estimate(outer, inner, x, y, outer_batch, inner_batch, key=key)
            return h, optax.tree.norm(optax.tree.sub(info.y, origin)), info.failed

        batches = (outer_batch, inner_batch, jax.random.split(used, tasks))
        if tasks_at_once is None:
            found = jax.vmap(task)(batches)
        else:
            size = None if tasks_at_once == 1 else tasks_at_once
            found = jax.lax.map(task, batches, batch_size=size)
        h, distance, failed = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), found)
        x, outer_state = advance(outer_optimizer, h, state.outer_optimizer, x, project_outer)
        info = EpisodicInfo(jnp.asarray(optax.tree.norm(h)), distance, failed)
        return EpisodicState(x, origin, outer_state, jax.random.key_data(carried)), info

    return Solver(init, step)


def _tasks(outer_batch: PyTree, inner_batch: PyTree) -> int:
    """The number of tasks; raises ValueError unless all leaves agree on it."""
    counts = set()
    for leaf in jax.tree.leaves((outer_batch, inner_batch)):
        counts.add(jnp.shape(leaf)[0] if jnp.ndim(leaf) else None)
    if len(counts) != 1 or None in counts:
        raise ValueError(
            "outer_batch and inner_batch must have leaves with a leading axis of as many tasks, "
            f"got {sorted(counts, key=str)}."
        )
    return counts.pop()


def _check_task(outer, inner, x, y, outer_batch, inner_batch):
    """Raises ValueError unless both objectives take what the batches hold for one task."""
    for name, objective, batch in (("outer", outer, outer_batch), ("inner", inner, inner_batch)):
        try:
            jax.eval_shape(objective, x, y, batch)
        except (IndexError, TypeError, ValueError) as error:
            shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
            raise ValueError(
                f"{name}_batch must have a leading axis of tasks: {name} cannot take the leaves of "
                f"shape {shapes} that follow it ({' '.join(str(error).split())})"
            ) from error
    check_objectives(outer, inner, x, y, outer_batch, inner_batch)
