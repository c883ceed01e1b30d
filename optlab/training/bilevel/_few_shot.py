"""Few-shot learning on any image set."""

import jax
import jax.numpy as jnp
import optax

from optlab.problems import few_shot
from optlab.training._config import ConfigError
from optlab.training._registry import configured_optimizer
from optlab.training.bilevel._config import BilevelConfig
from optlab.training.bilevel._model import check_drawn, shrunk, stateless_model
from optlab.training.bilevel._task import BilevelTask
from optlab.training.data import Examples, draw_episodes, examples_by_class, load_data

__all__ = ["few_shot_task"]


def few_shot_task(
    config: BilevelConfig,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    test_tasks: int = 200,
    adapt_steps: int = 5,
    proximity: float = 0.0,
    rotate: bool = False,
    shrink: int = 1,
) -> BilevelTask:
    """Makes :func:`optlab.problems.few_shot` on the classes of a data set.

    A step has ``config.outer_batch_size`` tasks, a pure function of seed and step. The tasks of the
    evaluation, of the held-out examples, are the same for every run.

    Args:
        config: of the run; its ``inner_optimizer`` learns the tasks of the evaluation, too.
        ways, shots, queries: see :func:`optlab.training.data.draw_episodes`.
        test_tasks: in an evaluation.
        adapt_steps: in which each of them is learnt.
        proximity: the pull to the common start.
        rotate: whether turned images are classes of their own, in training.
        shrink: the factor by which images are made smaller, by the means of squares.

    Returns:
        The task.
    """
    check_drawn(config, "outer")
    data = load_data(config.data)
    if len(data.shape) != 3:
        raise ConfigError(f"data.name {config.data.name!r} has no images to draw tasks from.")
    train, test = (
        examples_by_class(shrunk(part, shrink), rotate=rotate and part is data.train)
        for part in (data.train, data.test)
    )
    init, apply = stateless_model(
        config.model, data._replace(train=Examples(train[0], data.train.targets)), ways
    )
    problem = few_shot(apply, proximity=proximity)
    tasks = config.outer_batch_size
    sizes = {"ways": ways, "shots": shots, "queries": queries}
    optimizer = configured_optimizer(config.inner_optimizer, config.steps)

    def start(key):
        params = init(key)
        return params, optax.tree.zeros_like(params)

    def draw(key, _, inputs):
        support, query = draw_episodes(key, inputs, tasks=tasks, **sizes)
        return tuple(query), tuple(support)

    def judge(x, start, support, query):
        """Learns one task, and judges it before and after."""

        def step(carry, _):
            y, state = carry
            updates, state = optimizer.update(jax.grad(problem.inner, 1)(x, y, support), state, y)
            return (optax.apply_updates(y, updates), state), None

        (y, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=adapt_steps)
        logits = apply(optax.tree.add(x, y), query[0])
        return problem.outer(x, y, query), jnp.mean(logits.argmax(axis=-1) == query[1])

    def evaluate(state, test):
        found = jax.lax.map(lambda task: judge(state.x, state.y, *task), test)
        return dict(zip(("loss", "accuracy"), map(jnp.mean, found), strict=True))

    held_out = draw_episodes(jax.random.key(0), jnp.asarray(test), tasks=test_tasks, **sizes)
    return BilevelTask(
        problem=problem,
        init=start,
        outer_data=(),
        inner_data=train,
        test=tuple(map(tuple, held_out)),
        evaluate=evaluate,
        draw=draw,
        finding=f"learns {ways} classes of {{data}} from {shots} examples each, to an accuracy of "
        "{accuracy:.2%}",
        drawn=("test_loss", "test_accuracy"),
    )
