"""A run of a bilevel solver, with the records, checkpoints and resumption of any other run."""

import dataclasses
import inspect
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optlab.base import PyTree, Solver
from optlab.training._config import ConfigError, validate
from optlab.training._pure import seed_words
from optlab.training._report import write_report
from optlab.training._result import RunResult, median_speed, recorded_result
from optlab.training._run import Due, run
from optlab.training._workdir import Workdir
from optlab.training.bilevel._batches import batch_count, batch_number, cut
from optlab.training.bilevel._config import BilevelConfig
from optlab.training.bilevel._solvers import make_solver
from optlab.training.bilevel._task import BilevelTask, make_task

__all__ = ["BilevelResult", "solve"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BilevelResult(RunResult):
    """What a run of a bilevel solver came to.

    Attributes:
        solver, problem, data: their names.
        tested: the figures of the last evaluation, by name.
        outer_size, inner_size: elements of the two variables.
    """

    solver: str
    problem: str
    data: str
    tested: Mapping[str, float]
    outer_size: int
    inner_size: int

    @property
    def method(self) -> str:
        """The solver."""
        return self.solver


def solve(
    config: BilevelConfig,
    workdir: str | os.PathLike,
    *,
    on_record: Callable[[dict[str, Any]], None] | None = None,
) -> BilevelResult:
    """Runs a bilevel solver, or goes on from where an earlier process of the same run was stopped.

    All that :func:`optlab.training.train` says of signals, interruptions, damaged checkpoints and
    finished runs holds here. A state that is not finite ends the run at its next log line or
    evaluation, with nothing saved since the last.

    Args:
        config: of the run.
        workdir: gets ``config.json``, ``manifest.json``, ``metrics.jsonl``, ``tb/``,
            ``checkpoints/``, ``report.md`` and ``curves.png``.
        on_record: called with each line of ``metrics.jsonl`` as it is written, to plot it, say.

    Returns:
        Its figures.

    Raises:
        ConfigError: if the config is wrong or the workdir cannot be used; nothing is written then.
        StorageError: if the disk is full, say; what was saved before is intact.

    >>> import tempfile
    >>> result = solve(BilevelConfig(steps=4), tempfile.mkdtemp())
    >>> result.step, sorted(result.tested)
    (4, ['accuracy', 'f1', 'loss', 'precision', 'recall'])
    """
    validate(config)
    folder = Workdir(workdir, config)
    if (result := recorded_result(folder, "done", kind=BilevelResult)) is not None:
        return result
    return run(config, folder, lambda: _Course(config, make_task(config)), on_record=on_record)


class _Carry(NamedTuple):
    """What a step hands to the next one, and what a checkpoint holds."""

    step: jax.Array  # steps taken; shape=(), dtype=int32
    state: PyTree  # of the solver
    sums: dict[str, jax.Array]  # of what the steps since the last log line told; float32


class _Course:
    """A :class:`optlab.training._run.Course` of steps of one solver."""

    units: Mapping[str, float] = {}

    def __init__(self, config: BilevelConfig, task: BilevelTask):
        if config.full_every and task.draw is not None:
            raise ConfigError(
                f"config.full_every must be 0 for problem.name {config.problem.name!r}, which "
                f"draws its batches, got {config.full_every}."
            )
        self._config, self._task = config, task
        self._seed = seed_words(config.seed)
        every = config.log_every, config.eval_every, config.checkpoint_every
        self.stride = math.gcd(config.steps, *every)
        self._counts = _batch_counts(config, task)
        solver = make_solver(
            config, task.problem, outer_batches=self._counts[0], inner_batches=self._counts[1]
        )
        if config.full_every and "outer_full" not in inspect.signature(solver.step).parameters:
            raise ConfigError(
                f"config.full_every must be 0 for solver.name {config.solver.name!r}, whose steps "
                f"are never given all data, got {config.full_every}."
            )
        data, test = jax.device_put(((task.outer_data, task.inner_data), task.test))
        try:
            # Compiled, no two leaves share a buffer, as donation needs it.
            self.carry = jax.jit(lambda: self._init(solver, data))()
            steps = jax.jit(lambda carry, data: self._steps(solver, carry, data), donate_argnums=0)
            steps = steps.lower(self.carry, data).compile()
            evaluate = jax.jit(task.evaluate).lower(self.carry.state, test).compile()
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"solver.name {config.solver.name!r} does not suit problem.name "
                f"{config.problem.name!r}: {' '.join(str(error).split())}"
            ) from error
        self._compiled = lambda carry: steps(carry, data)
        self._evaluate = lambda carry: evaluate(carry.state, test)
        self._sound = jax.jit(_finite)

    def advance(self, carry: _Carry, step: int, looked_at: bool) -> _Carry:
        del step, looked_at
        return self._compiled(carry)

    def look(self, carry: _Carry, step: int, due: Due) -> tuple[dict[str, Any], int]:
        if not self._sound(carry.state):
            return {}, step
        told = {}
        if due.log:
            count = (step - 1) % self._config.log_every + 1
            means = {name: float(value) / count for name, value in carry.sums.items()}
            told |= {k: v for k, v in means.items() if not math.isnan(v)}  # or it was not measured
        if due.evaluate:
            tested = jax.device_get(self._evaluate(carry))
            told |= {f"test_{name}": float(value) for name, value in tested.items()}
        return told, 0

    def conclude(self, carry, records, facts) -> BilevelResult:
        del carry
        config, tested = self._config, {}
        for record in records:
            tested |= {k[5:]: v for k, v in record.items() if k.startswith("test_")}
        x, y = jax.eval_shape(self._task.init, jax.random.key(0))
        finding = self._task.finding.format(data=config.data.name, **tested) if tested else ""
        return BilevelResult(
            solver=config.solver.name,
            problem=config.problem.name,
            data=config.data.name,
            tested=tested,
            finding=finding,
            steps_per_second=median_speed(records),
            outer_size=_size(x),
            inner_size=_size(y),
            **facts,
        )

    def report(self, result: BilevelResult) -> None:
        rows = {name.replace("_", " "): f"{value:.4g}" for name, value in result.tested.items()}
        rows |= {
            "outer variables": f"{result.outer_size:,}",
            "inner variables": f"{result.inner_size:,}",
        }
        write_report(result, rows, self._task.drawn)

    def _keys(self) -> jax.Array:
        """Those of the start, the outer and the inner batches."""
        return jax.random.split(jax.random.wrap_key_data(self._seed), 3)

    def _init(self, solver: Solver, data: PyTree) -> _Carry:
        variables, own = jax.random.split(self._keys()[0])
        state = solver.init(own, *self._task.init(variables))
        step = jnp.zeros((), jnp.int32)
        _, info = jax.eval_shape(lambda: self._step(solver, step, state, data))
        return _Carry(step, state, {name: jnp.zeros(()) for name in _figures(info)})

    def _steps(self, solver: Solver, carry: _Carry, data: PyTree) -> _Carry:
        """Takes as many steps as the stride."""

        def one(carry, _):
            state, info = self._step(solver, carry.step, carry.state, data)
            anew = carry.step % self._config.log_every == 0
            sums = {
                name: jnp.where(anew, 0.0, carry.sums[name]) + value.astype(jnp.float32)
                for name, value in _figures(info).items()
            }
            return _Carry(carry.step + 1, state, sums), None

        return jax.lax.scan(one, carry, length=self.stride)[0]

    def _step(self, solver, step, state, data):
        _, *keys = self._keys()
        extra = {}
        if self._task.draw is not None:
            batches = self._task.draw(jax.random.fold_in(keys[0], step), *data)
        else:
            batches = []
            for i, level in enumerate(("outer", "inner")):
                batch, number = self._rows(level, keys[i], step, data[i], self._counts[i])
                batches.append(batch)
                if number is not None:
                    extra[f"{level}_index"] = number
        every = self._config.full_every
        if not every:
            return solver.step(state, *batches, **_accepted(solver, extra))
        full = {"outer_full": data[0], "inner_full": data[1]}
        return jax.lax.cond(
            step % every == 0,
            lambda: solver.step(state, *batches, **_accepted(solver, extra | full)),
            lambda: solver.step(state, *batches, **_accepted(solver, extra)),
        )

    def _rows(self, level, key, step, data, count):
        """The batch of a step, or several along an axis; and its number if it is one."""
        size = getattr(self._config, f"{level}_batch_size")
        several = getattr(self._config, f"{level}_batches_per_step")
        if not several:
            number = batch_number(key, step, count)
            return cut(data, number, size), number
        draws = step * several + jnp.arange(several)
        numbers = jax.vmap(lambda draw: batch_number(key, draw, count))(draws)
        return jax.vmap(lambda number: cut(data, number, size))(numbers), None


def _batch_counts(config: BilevelConfig, task: BilevelTask) -> tuple[int, int]:
    """How many batches the rows of the two levels make."""
    if task.draw is not None:
        return 1, 1
    counts = []
    for level, data in (("outer", task.outer_data), ("inner", task.inner_data)):
        size = getattr(config, f"{level}_batch_size")
        counts.append(batch_count(data, size))
        if not counts[-1]:
            rows = jax.tree.leaves(data)[0].shape[0]
            raise ConfigError(
                f"config.{level}_batch_size must not exceed the {rows} rows of that level, "
                f"got {size}."
            )
    return counts[0], counts[1]


def _accepted(solver: Solver, extra: dict[str, Any]) -> dict[str, Any]:
    """The further arguments that a solver's step takes."""
    parameters = inspect.signature(solver.step).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return extra
    return {name: value for name, value in extra.items() if name in parameters}


def _figures(info: PyTree) -> dict[str, jax.Array]:
    """The numbers that a step tells, by name."""
    leaves = jax.tree.flatten_with_path(info)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in leaves
        if leaf.shape == ()
    }


def _size(tree: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _finite(tree: PyTree) -> jax.Array:
    leaves = (leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact))
    return jnp.array([jnp.isfinite(leaf).all() for leaf in leaves]).all()
