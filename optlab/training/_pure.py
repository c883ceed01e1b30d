"""What a run computes, as pure functions: its first carry, a step, an evaluation."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from optlab.base import Params, PyTree
from optlab.training._config import ConfigError, OptimizerConfig, TrainConfig, override
from optlab.training._layout import Layout
from optlab.training._registry import configured_optimizer, make_schedule
from optlab.training._rounding import in_float32
from optlab.training._state import TrainState
from optlab.training._tasks import Task, make_task
from optlab.training.data import Dataset, Examples, Windows, scale_pixels
from optlab.training.models import Functional, functional, make_model
from optlab.transforms.curvature import layer_taps
from optlab.transforms.learning_rate_free import averaged_params
from optlab.transforms.quantized import FusedTransformation

__all__ = ["Carry", "Knobs", "PureRun", "seed_words"]

_HEALTH = ("counted", "gradient_norm")  # beside the sums of the task's figures


class Knobs(NamedTuple):
    """What tells one lane of a compiled program from the others."""

    seed: jax.Array  # see seed_words
    values: dict[str, jax.Array]  # of numeric fields of the optimizer, by dotted path; shape=()


class Carry(NamedTuple):
    """What a step hands to the next one, and what a checkpoint holds."""

    state: TrainState
    rest: PyTree  # of the model beside its parameters, such as running statistics
    sums: dict[str, jax.Array]  # of the steps' figures since the last log line; shape=(), float32
    knobs: Knobs | None = None  # of a lane; a run that has its program to itself has none


def seed_words(seed: int) -> np.ndarray:
    """Gives the key of a seed as plain words, shape=(2,), dtype=uint32.

    All processes of a run can pass these to a compiled function.
    """
    return np.asarray(jax.random.key_data(jax.random.key(seed)))


class PureRun:
    """The functions of a run, to be compiled, or mapped over knobs and compiled.

    Args:
        config: of the run.
        tx: its optimizer, to be called with ``value``, ``grad``, ``value_fn`` and ``grad_fn``, and
            with ``statistics`` if the config says so; where there are knobs, one with their values
            takes its place.
        data: its examples, on the host.
        layout: where its arrays lie.

    Raises:
        ConfigError: if the model does not suit the data.

    Attributes:
        task: what the outputs are judged by.
    """

    def __init__(
        self,
        config: TrainConfig,
        tx: optax.GradientTransformation,
        data: Dataset,
        layout: Layout,
    ):
        self.task = make_task(data)
        # Sequences that are to be classified: their tokens are not among the outputs.
        vocabulary = len(data.vocabulary) if data.task == "classification" else 0
        make = functools.partial(
            make_model, config.model, data.shape, self.task.outputs, vocabulary=vocabulary or None
        )
        self._model = functional(lambda key: make(rngs=nnx.Rngs(key)))
        self._figures = _figures(config, self._model, self.task, data)
        self._config, self._layout = config, layout
        self._tx = self._rounded(tx)

    def init(self, seed: jax.Array, knobs: Knobs | None = None) -> Carry:
        """Gives the carry at step 0.

        Args:
            seed: see :func:`seed_words`.
            knobs: of a lane.

        Returns:
            The carry.
        """
        params, rest = self._model.init(jax.random.wrap_key_data(seed))
        params = optax.tree.cast(params, jnp.dtype(self._config.param_dtype))
        with _blaming(self._config.optimizer):
            tx = self._optimizer(knobs)
            state = TrainState.create(apply_fn=self._model.apply, params=params, tx=tx)
        sums = {name: jnp.zeros(()) for name in (*self._figures, *_HEALTH)}
        return Carry(state.replace(tx=self._tx), rest, sums, knobs)

    def step(
        self, seed: jax.Array, carry: Carry, train: Examples | Windows, order: jax.Array
    ) -> Carry:
        """Takes one step.

        Args:
            seed: see :func:`seed_words`.
            carry: the last one.
            train: the examples to learn from.
            order: of the epoch, shape ``[rows, batch]``.

        Returns:
            The next carry.
        """
        state = carry.state
        rows = order[state.step % len(order)]
        # Functions of seed and step, so that a resumed run draws the same; the first fold sets them
        # apart from the keys of the initial parameters.
        noise = jax.random.fold_in(jax.random.wrap_key_data(seed), 2**32 - 1)
        dropout, rounding = jax.random.split(jax.random.fold_in(noise, state.step))
        gradients, value = self._over_parts(carry.rest, train, rows, dropout)
        rest, (grads, statistics, means) = gradients(state.params)
        extra = {
            "value": means["loss"],
            "grad": grads,
            "value_fn": value,
            "grad_fn": lambda params: gradients(params)[1][0],
        }
        if self._config.optimizer.statistics:
            extra["statistics"] = statistics
        if self._rounds:
            extra["key"] = rounding
        with _blaming(self._config.optimizer):
            new = state.replace(tx=self._optimizer(carry.knobs))
            if self._layout.devices > 1 and isinstance(new.tx, FusedTransformation):
                extra["shardings"] = self._layout.of_state(state.params)
            new = new.apply_gradients(grads=grads, **extra).replace(tx=state.tx)
        # Behind a barrier, as XLA would rather compute the gradients twice. At every step: a branch
        # that only logged steps take costs a CPU more than the norm does.
        norm = _norm(jax.lax.optimization_barrier(grads))
        new, rest, sums = self._guarded(carry, new, rest, means, norm)
        return Carry(new, rest, sums | {"gradient_norm": norm}, carry.knobs)

    def read(self, carry: Carry, before: Params) -> tuple[dict[str, Any], dict[str, Any]]:
        """Gives what a log line tells.

        Args:
            carry: the last one.
            before: the parameters before its step.

        Returns:
            The means of the task's figures since the last log line; the steps that count in them,
            norms and the learning rate.
        """
        config = self._tuned(carry.knobs)
        rate = make_schedule(config.optimizer, config.steps)
        counted = carry.sums["counted"]
        health = {
            "counted": counted,
            "gradient_norm": carry.sums["gradient_norm"],
            "update_norm": _norm(carry.state.params, before),
            "parameter_norm": _norm(carry.state.params),
            "learning_rate": rate(carry.state.step - 1) if callable(rate) else rate,
        }
        return {name: carry.sums[name] / counted for name in self._figures}, health

    def evaluate(self, carry: Carry, test: Examples | Windows) -> dict[str, jax.Array]:
        """Gives the means of the task's figures over the held-out examples."""
        count = len(test[0])
        parts = math.ceil(count / self._config.eval_batch_size)
        size = self._layout.round_up(math.ceil(count / parts))
        params, rest = carry.state.params, carry.rest
        if self._config.evaluate == "average":
            with _blaming(self._config.optimizer):
                params = averaged_params(carry.state.opt_state, params)

        def part(sums, start):
            rows = start + jnp.arange(size)  # those beyond the last count for nothing
            scores, _ = self._score(params, rest, test, jnp.minimum(rows, count - 1))
            counts = {name: jnp.where(rows < count, v, 0.0).sum() for name, v in scores.items()}
            return jax.tree.map(jnp.add, sums, counts), None

        zeros = {name: jnp.zeros(()) for name in self._figures}
        sums, _ = jax.lax.scan(part, zeros, size * jnp.arange(parts))
        return {name: value / count for name, value in sums.items()}

    @property
    def _rounds(self) -> bool:
        return self._config.param_dtype == "bfloat16"

    def _rounded(self, tx: optax.GradientTransformation) -> optax.GradientTransformation:
        return in_float32(tx) if self._rounds else tx

    def _tuned(self, knobs: Knobs | None) -> TrainConfig:
        return self._config if knobs is None else override(self._config, knobs.values)

    def _optimizer(self, knobs: Knobs | None) -> optax.GradientTransformation:
        """The optimizer of a lane; its carry names another, as no trace may leak from it."""
        if knobs is None:
            return self._tx
        config = self._tuned(knobs)
        return self._rounded(configured_optimizer(config.optimizer, config.steps))

    def _score(self, params, rest, examples, rows, key=None, taps=None):
        layout = self._layout
        batch = jax.tree.map(lambda array: array[layout.split(rows)], examples)
        outputs, rest = self._model.apply(
            layout.whole(params),
            layout.whole(rest),
            scale_pixels(batch.inputs),
            train=key is not None,
            key=key,
            taps=taps,
        )
        return self.task.score(outputs, batch.targets), rest

    def _loss(self, params, taps, rest, train, rows, key):
        scores, rest = self._score(params, rest, train, rows, key, taps)
        means = {name: values.mean() for name, values in scores.items()}
        return means["loss"], (means, rest)

    def _over_parts(self, rest, train, rows, key) -> tuple[Callable, Callable]:
        """Gives two functions of the parameters, over a batch part by part.

        The first gives the rest and the means of gradients, of the layers' statistics and of the
        figures, the second the loss.
        """

        def gradients(params):
            taps = layer_taps(params) if self._config.optimizer.statistics else {}

            def part(rest, rows, key):
                (grads, statistics), (means, rest) = jax.grad(
                    self._loss, argnums=(0, 1), has_aux=True
                )(params, taps, rest, train, rows, key)
                return rest, (grads, statistics, means)

            return _mean_over_parts(part, self._config.accumulate, rest, rows, key)

        def value(params, *, grad_fn=None):
            del grad_fn  # optax's line searches hand on all extra arguments but their own

            def part(rest, rows, key):
                loss, (_, rest) = self._loss(params, {}, rest, train, rows, key)
                return rest, loss

            return _mean_over_parts(part, self._config.accumulate, rest, rows, key)[1]

        return gradients, value

    def _guarded(self, carry, new, rest, means, gradient_norm):
        """Gives state, rest and sums after a step, kept from what is inf or NaN by the config."""
        counts = means | {"counted": 1.0}
        position = carry.state.step % self._config.log_every
        sums = {name: jnp.where(position == 0, 0.0, carry.sums[name]) for name in counts}
        sound = jnp.array(True)
        if self._config.on_nonfinite == "stop":  # the loop, which saves nothing beyond this step
            sound = jnp.isfinite(means["loss"]) & (sums["counted"] == position)
        elif self._config.on_nonfinite == "skip":
            sound = jnp.isfinite(means["loss"]) & jnp.isfinite(gradient_norm)

        def choose(new, old):
            return jax.tree.map(lambda n, o: jnp.where(sound, n, o), new, old)

        if self._config.on_nonfinite == "skip":
            new, rest = choose(new, carry.state).replace(step=new.step), choose(rest, carry.rest)
        return new, rest, choose({name: sums[name] + counts[name] for name in counts}, sums)


def _figures(config: TrainConfig, model: Functional, task: Task, data: Dataset) -> list[str]:
    """Names the figures of the task; refuses a model that does not suit the data."""
    one = jax.tree.map(lambda array: array[:1], data.train)
    blame = f"model.name {config.model.name!r} does not suit data.name {config.data.name!r}"
    try:
        params, rest = jax.eval_shape(model.init, jax.random.key(0))
        outputs, _ = jax.eval_shape(model.apply, params, rest, scale_pixels(one.inputs))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{blame}: {' '.join(str(error).split())}") from error
    wanted = (*one.targets.shape, task.outputs)
    if outputs.shape != wanted:
        raise ConfigError(
            f"{blame}: of an example it makes an output of shape {outputs.shape[1:]}, where "
            f"{wanted[1:]} is wanted."
        )
    return list(jax.eval_shape(task.score, outputs, one.targets))


def _mean_over_parts(
    part: Callable[[PyTree, jax.Array, jax.Array], tuple[PyTree, PyTree]],
    parts: int,
    rest: PyTree,
    rows: jax.Array,
    key: jax.Array,
) -> tuple[PyTree, PyTree]:
    """Gives the last rest and the mean of what ``part(rest, rows, key)`` gives beside it.

    Several parts follow one another in a scan: the memory is that of one, and a sum.
    """
    if parts == 1:
        return part(rest, rows, key)
    rows, keys = rows.reshape(parts, -1), jax.random.split(key, parts)
    _, values = jax.eval_shape(part, rest, rows[0], keys[0])
    zeros = jax.tree.map(
        lambda v: jnp.zeros(v.shape, jnp.promote_types(v.dtype, jnp.float32)), values
    )

    def add(carry, x):
        rest, sums = carry
        rest, values = part(rest, *x)
        return (rest, jax.tree.map(jnp.add, sums, values)), None

    (rest, sums), _ = jax.lax.scan(add, (rest, zeros), (rows, keys))
    return rest, jax.tree.map(lambda s: s / parts, sums)


def _norm(tree: PyTree, origin: PyTree | None = None) -> jax.Array:
    """The Euclidean norm over all leaves, in float32, of a tree or of its distance to another."""
    tree = optax.tree.cast(tree, jnp.float32)
    if origin is not None:
        tree = optax.tree.sub(tree, optax.tree.cast(origin, jnp.float32))
    return optax.tree.norm(tree)


@contextlib.contextmanager
def _blaming(config: OptimizerConfig) -> Iterator[None]:
    """Names the field behind an error that an optimizer raises while it is traced."""
    try:
        yield
    except (TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(
            f"optimizer.arguments {dict(config.arguments)} do not suit {config.name}: {text}"
        ) from error
