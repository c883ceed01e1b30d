"""A run as compiled functions: its first carry, its step, its evaluation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optlab.base import Params, PyTree
from optlab.training._config import ConfigError, TrainConfig
from optlab.training._layout import Layout
from optlab.training._pure import Carry, Knobs, PureRun, seed_words
from optlab.training._tasks import Task
from optlab.training.data import Dataset, epoch_order

__all__ = ["Carry", "Program", "compile_program"]


class Program(NamedTuple):
    """The compiled functions of a run, or of several side by side: its lanes.

    Arrays and figures of lanes have an axis more, the first one, as has their order.
    """

    carry: Carry  # at step 0
    step: Callable[[Carry, jax.Array], Carry]  # takes the epoch's order; the carry is donated
    evaluate: Callable[[Carry], dict[str, jax.Array]]  # means over the held-out examples
    copy: Callable[[Params], Params]
    # Takes the parameters before the last step too; gives the means of the task's figures since the
    # last log line, and the steps that count in them, norms and the learning rate.
    read: Callable[[Carry, Params], tuple[dict[str, Any], dict[str, Any]]]
    place: Callable[[np.ndarray], jax.Array]  # puts an epoch's order where the step wants it
    task: Task
    restart: Callable[[Knobs], Carry]  # a carry at step 0 of as many other lanes


def compile_program(
    config: TrainConfig,
    tx: optax.GradientTransformation,
    data: Dataset,
    lanes: Knobs | None = None,
) -> Program:
    """Compiles a run ahead of its loop: a second trace is then an error, not a slow step.

    Args:
        config: of the run.
        tx: its optimizer, called as :class:`PureRun` says.
        data: its examples, on the host.
        lanes: what tells several runs apart, to be computed side by side.

    Returns:
        The program.

    Raises:
        ConfigError: if the devices are too few, the model does not suit the data, or the optimizer
            cannot be traced with its arguments.
    """
    layout = Layout(config.mesh)
    run = PureRun(config, tx, data, layout)
    seed = seed_words(config.seed)
    order = epoch_order(config.seed, 0, len(data.train[0]), config.batch_size)
    read, evaluate = run.read, run.evaluate
    if lanes is None:

        def init(_):
            return run.init(seed)

        def step(carry, train, order):
            return run.step(seed, carry, train, order)
    else:
        size = len(lanes.seed)
        over = jax.vmap if size > 1 else _over_one
        init = over(lambda knobs: run.init(knobs.seed, knobs))
        step = over(
            lambda carry, train, order: run.step(carry.knobs.seed, carry, train, order),
            in_axes=(0, None, 0),
        )
        read, evaluate = over(read), over(evaluate, in_axes=(0, None))
        order = np.stack([order] * size)

    # Compiled, no two leaves share a buffer, even if a state starts as the parameters: donation
    # needs that.
    shardings = layout.of_state(jax.eval_shape(init, lanes))
    restart = jax.jit(init, out_shardings=shardings)
    carry = restart(lanes)
    train, test = layout.place((data.train, data.test))  # once: a step takes its batch by index
    lowered_step = jax.jit(step, donate_argnums=0, out_shardings=shardings).lower(
        carry, train, layout.place(order)
    )
    if _dtypes(lowered_step.out_info) != _dtypes(carry):
        raise ConfigError(
            f"optimizer.arguments {dict(config.optimizer.arguments)} do not suit "
            f"{config.optimizer.name}: a step changes the dtypes of its state."
        )
    compiled_step = lowered_step.compile()
    compiled_evaluate = jax.jit(evaluate).lower(carry, test).compile()
    compiled_read = jax.jit(read).lower(carry, carry.state.params).compile()

    def run_step(carry, order):
        carry = compiled_step(carry, train, order)
        return jax.block_until_ready(carry) if layout.waits else carry

    def read_numbers(*args):
        found = jax.device_get(compiled_read(*args))
        return jax.tree.map(float, found) if lanes is None else found

    return Program(
        carry=carry,
        step=run_step,
        evaluate=lambda carry: compiled_evaluate(carry, test),
        copy=jax.jit(lambda params: jax.tree.map(jnp.copy, params)),
        read=read_numbers,
        place=layout.place,
        task=run.task,
        restart=restart,
    )


def _over_one(function: Callable, in_axes: Any = 0) -> Callable:
    """``jax.vmap`` over an axis of length one, under which a branch stays a branch."""

    def call(*args):
        axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
        own = [
            arg if axis is None else jax.tree.map(lambda x: x[0], arg)
            for arg, axis in zip(args, axes, strict=True)
        ]
        return jax.tree.map(lambda x: x[None], function(*own))

    return call


def _dtypes(tree: PyTree) -> list[tuple[tuple[int, ...], np.dtype]]:
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
