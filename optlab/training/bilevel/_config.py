"""What a bilevel run is made of."""

import dataclasses
from collections.abc import Mapping

from optlab.training._config import (
    Arguments,
    ConfigError,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    at_least,
)

__all__ = ["BilevelConfig", "PartConfig"]


@dataclasses.dataclass(slots=True, kw_only=True)
class PartConfig:
    """A problem or a solver by name.

    Attributes:
        name: under which it is known.
        arguments: keyword arguments of what makes it.
    """

    name: str
    arguments: Arguments = dataclasses.field(default_factory=Arguments)

    def __setattr__(self, field, value):
        if field == "arguments" and isinstance(value, Mapping):
            value = Arguments(value)
        object.__setattr__(self, field, value)


def _hyper_cleaning() -> PartConfig:
    return PartConfig(name="hyper_cleaning")


def _soba() -> PartConfig:
    return PartConfig(name="soba")


def _linear_model() -> ModelConfig:
    return ModelConfig(widths=())


def _sgd() -> OptimizerConfig:
    return OptimizerConfig(name="sgd", learning_rate=0.1, schedule="constant")


@dataclasses.dataclass(slots=True, kw_only=True)
class BilevelConfig(RunConfig):
    """One run of a bilevel solver, whole.

    The steps between two log lines, evaluations or checkpoints run as one compiled loop, as many as
    divide all three: rounder numbers run faster, and a signal waits for the end of a loop.

    Attributes:
        outer_batch_size, inner_batch_size: rows of a batch; 0 takes all rows. A problem that draws
            its own batches, such as few-shot tasks, says what they count.
        outer_batches_per_step, inner_batches_per_step: batches along a leading axis, for a solver
            with ``fresh_batches``; 0 gives one without that axis. The inner schedule counts each.
        full_every: steps from one that is given all data to the next, the first one included, for a
            solver that follows differences from there, such as ``srba``; 0 gives them to none.
        problem: see :func:`optlab.training.bilevel.make_task`.
        solver: see :func:`optlab.training.bilevel.make_solver`.
        data, model: see their classes; not every problem uses both.
        outer_optimizer, inner_optimizer: of the two levels. A schedule counts the updates of its
            own level, and ends after as many as the run has steps.
        linear_optimizer: of the linear system, for solvers that step on it.
    """

    outer_batch_size: int = at_least(0, 64)
    inner_batch_size: int = at_least(0, 64)
    outer_batches_per_step: int = at_least(0, 0)
    inner_batches_per_step: int = at_least(0, 0)
    full_every: int = at_least(0, 0)
    problem: PartConfig = dataclasses.field(default_factory=_hyper_cleaning)
    solver: PartConfig = dataclasses.field(default_factory=_soba)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=_linear_model)
    outer_optimizer: OptimizerConfig = dataclasses.field(default_factory=_sgd)
    inner_optimizer: OptimizerConfig = dataclasses.field(default_factory=_sgd)
    linear_optimizer: OptimizerConfig = dataclasses.field(default_factory=_sgd)

    def check(self) -> None:
        """See :class:`optlab.training.RunConfig`."""
        for level in ("outer", "inner", "linear"):
            if getattr(self, f"{level}_optimizer").warmup_steps > self.steps:
                raise ConfigError(
                    f"config.{level}_optimizer.warmup_steps must not exceed config.steps."
                )
