"""Few-shot tasks: each a handful of classes, a few examples of each to learn from."""

import jax
import jax.numpy as jnp
import numpy as np

from optlab._checks import check_count
from optlab.training.data._dataset import Examples

__all__ = ["draw_episodes", "examples_by_class"]


def examples_by_class(examples: Examples, *, rotate: bool = False) -> np.ndarray:
    """Groups the inputs by class.

    Args:
        examples: of any number of classes.
        rotate: whether images turned by 90, 180 and 270 degrees make classes of their own, as is
            the custom for Omniglot.

    Returns:
        Shape ``[classes, each, ...]``; of a class that has more examples than the smallest one the
        first are taken.

    >>> examples = Examples(np.arange(5), np.array([7, 3, 7, 3, 7]))
    >>> examples_by_class(examples).tolist()
    [[1, 3], [0, 2]]
    """
    _, classes, counts = np.unique(examples.targets, return_inverse=True, return_counts=True)
    starts = np.cumsum(counts) - counts
    order = np.argsort(classes, kind="stable")
    inputs = examples.inputs[order[starts[:, None] + np.arange(counts.min())]]
    if not rotate:
        return inputs
    return np.concatenate([np.rot90(inputs, turns, axes=(2, 3)) for turns in range(4)])


def draw_episodes(
    key: jax.Array, inputs: jax.Array, *, tasks: int, ways: int, shots: int, queries: int
) -> tuple[Examples, Examples]:
    """Draws tasks, a pure function of its arguments: fold a step into the key for those of a step.

    The classes of a task differ from one another, as do the examples of a class; the labels are
    the places of the classes within the task, in random order.

    Args:
        key: of all tasks.
        inputs: as :func:`examples_by_class` gives them.
        tasks: how many.
        ways: classes of a task.
        shots: examples of each to learn from.
        queries: further ones of each to be judged by.

    Returns:
        Support and query: examples of shape ``[tasks, ways * shots, ...]`` and ``[tasks,
        ways * queries, ...]``.

    Raises:
        ValueError: if a number is below 1, or there are fewer classes or examples of a class.

    >>> support, query = draw_episodes(jax.random.key(0), jnp.arange(60).reshape(20, 3), tasks=4,
    ...                                ways=5, shots=1, queries=2)
    >>> support.inputs.shape, query.targets[0].tolist()
    ((4, 5), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    """
    for name, value in (("tasks", tasks), ("ways", ways), ("shots", shots), ("queries", queries)):
        check_count(name, value, 1)
    classes, each = inputs.shape[:2]
    if ways > classes or shots + queries > each:
        raise ValueError(
            f"ways and shots + queries must not exceed the {classes} classes of {each} examples, "
            f"got {ways} and {shots + queries}."
        )

    def draw(key):
        class_key, example_key = jax.random.split(key)
        drawn = _some(class_key, (classes,), ways)
        rows = _some(example_key, (ways, each), shots + queries)
        return inputs[drawn[:, None], rows]  # [ways, shots + queries, ...]

    found = jax.vmap(draw)(jax.random.split(key, tasks))

    def part(start, count):
        chosen = found[:, :, start : start + count]
        labels = jnp.repeat(jnp.arange(ways, dtype=jnp.int32), count)
        return Examples(
            chosen.reshape(tasks, ways * count, *inputs.shape[2:]),
            jnp.tile(labels, (tasks, 1)),
        )

    return part(0, shots), part(shots, queries)


def _some(key: jax.Array, shape: tuple[int, ...], count: int) -> jax.Array:
    """Different numbers below the last of ``shape``, in random order, for each of the others.

    The places of the largest of random numbers: to sort them all, as a permutation of thousands of
    classes does, took five times as long as the step that learns from them.
    """
    return jax.lax.top_k(jax.random.uniform(key, shape), count)[1]
