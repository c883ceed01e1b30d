"""Runs that differ in numbers alone, side by side in one compiled program."""

import contextlib
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optlab.training._checkpoint import Checkpoints
from optlab.training._config import ConfigError, TrainConfig
from optlab.training._loop import diverged_at, figures, load_examples
from optlab.training._metrics import Lines
from optlab.training._program import Carry, Program, compile_program
from optlab.training._pure import Knobs, seed_words
from optlab.training._registry import configured_optimizer
from optlab.training._result import Result, summary
from optlab.training._run import Due
from optlab.training._signals import Stop
from optlab.training._state import state_bytes_per_parameter
from optlab.training._workdir import Workdir, write_text
from optlab.training.data import epoch_order

__all__ = ["Lanes"]


class Lanes:
    """Trains configs that differ in their seed and in numbers of the optimizer.

    A program is compiled once for a number of lanes, and serves as many others of the same kind. A
    branch that an optimizer takes now and then, such as a decomposition every 200 steps, is
    computed at every step, as always under ``vmap``; but where there is one lane it is not.

    Args:
        config: of any of the runs.
    """

    def __init__(self, config: TrainConfig):
        self._config, self._data = config, load_examples(config)
        self._programs: dict[int, Program] = {}

    def train(
        self,
        runs: Sequence[tuple[Workdir, TrainConfig, Mapping[str, float]]],
        folder: pathlib.Path,
        stop: Stop,
        on_steps: Callable[[int], object],
    ) -> list[Result]:
        """Trains runs to their end, or on from where they were stopped, or up to a signal.

        Args:
            runs: the workdir of each, locked; its config; the numbers by dotted path that are its
                own, of the same paths for all.
            folder: keeps what the runs have in common while they are not finished.
            stop: ends them after the current step, saved.
            on_steps: called now and then with the steps done since, over all runs.

        Returns:
            The results, none if a signal came first. Workdirs of finished runs hold what those of
            :func:`optlab.training.train` do, but for checkpoints, TensorBoard's events and report.

        Raises:
            ConfigError: if the optimizer cannot be traced with numbers of its lanes.
        """
        began = time.perf_counter()
        knobs = _knobs([config.seed for _, config, _ in runs], [own for _, _, own in runs])
        program, carry = self._program(knobs)
        step, checkpoints = 0, Checkpoints(folder / "checkpoints")
        if (latest := checkpoints.latest()) is not None:
            step, carry = latest, checkpoints.restore(latest, carry)
        on_steps(step * len(runs))
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(Lines(folder / "metrics.jsonl", step)) as lines:
            if lines.records:
                began -= lines.records[-1]["seconds"]
            step, carry = self._advance(
                program, step, carry, runs, stop, on_steps, lines, checkpoints, began
            )
        if step < self._config.steps:
            return []
        results = [
            self._finish(i, run, lines.records, program, carry, len(runs))
            for i, run in enumerate(runs)
        ]
        shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # other lanes are under way
            folder.parent.rmdir()
        return results

    def _program(self, knobs: Knobs) -> tuple[Program, Carry]:
        """Gives a program for so many lanes, and their carry at step 0."""
        size = len(knobs.seed)
        if size in self._programs:
            return self._programs[size], self._programs[size].restart(knobs)
        optimizer = self._config.optimizer
        tx = configured_optimizer(optimizer, self._config.steps)
        try:
            program = compile_program(self._config, tx, self._data, knobs)
        except (TypeError, ValueError) as error:
            kind = type(error.__cause__ or error).__name__
            raise ConfigError(f"{optimizer.name} cannot be vmapped ({kind})") from error
        self._programs[size] = program._replace(carry=None)
        return program, program.carry

    def _advance(
        self, program, step, carry, runs, stop, on_steps, lines, checkpoints, began
    ) -> tuple[int, Carry]:
        """Steps to the end or a signal; logs, evaluates and saves where it is due."""
        config, examples, saved = self._config, len(self._data.train[0]), step
        rows, order, lanes = examples // config.batch_size, None, range(len(runs))
        seeds = [run_config.seed for _, run_config, _ in runs]
        diverged = lines.records[-1]["diverged_at"] if lines.records else [0 for _ in lanes]

        def save():
            checkpoints.save(step, carry, {"lanes": len(runs)})

        mark, marked = time.perf_counter(), step
        while step < config.steps and not stop.signum and not all(diverged):
            epoch, row = divmod(step, rows)
            if order is None or row == 0:
                orders = [epoch_order(seed, epoch, examples, config.batch_size) for seed in seeds]
                order = program.place(np.stack(orders))
            due = Due.after(config, step + 1)
            before = program.copy(carry.state.params) if any(due) else None
            carry = program.step(carry, order)
            step += 1
            if not any(due):
                continue
            jax.block_until_ready(carry)
            speed = (step - marked) / (time.perf_counter() - mark)
            means, health = program.read(carry, before)
            tested = jax.device_get(program.evaluate(carry)) if due.evaluate else None
            own = [_lane((means, health, tested), i) for i in lanes]
            diverged = [diverged[i] or diverged_at(config, step, own[i][1]) for i in lanes]
            told = [
                figures(config, program.task, step, means if due.log else None, health, tested)
                for means, health, tested in own
            ]
            lines.write(
                {
                    "step": step,
                    "seconds": time.perf_counter() - began,
                    "diverged_at": diverged,
                    "lanes": [
                        told[i] | {"steps_per_second": speed} if told[i] and not diverged[i] else {}
                        for i in lanes
                    ],
                }
            )
            if due.checkpoint and step < config.steps:
                save()
                saved = step
            on_steps((step - marked) * len(runs))
            mark, marked = time.perf_counter(), step
        if all(diverged):
            on_steps((config.steps - step) * len(runs))
            return config.steps, carry
        if saved < step < config.steps:
            save()
        return step, carry

    def _finish(self, i, run, records, program, carry, lanes) -> Result:
        """Writes what a finished run leaves in its workdir."""
        workdir, config, _ = run
        diverged = records[-1]["diverged_at"][i]
        own = [{"step": r["step"], **r["lanes"][i]} for r in records if r["lanes"][i]]
        one = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape[1:], p.dtype), carry.state.params)
        result = summary(
            config,
            workdir.path,
            own,
            program.task,
            one,
            step=0 if diverged else config.steps,
            signum=0,
            diverged_at=diverged,
            resumed_at=(),
            state_bytes_per_parameter=state_bytes_per_parameter(carry.state),
            seconds=records[-1]["seconds"] / lanes,
        )
        workdir.write("config.json", workdir.config)
        metrics = workdir.path / "metrics.jsonl"
        write_text(metrics, "".join(json.dumps(r) + "\n" for r in own))
        workdir.write_manifest(
            result.status, result.seconds, resumed_at=[], lanes=lanes, result=result.figures
        )
        return result


def _knobs(seeds: Sequence[int], values: Sequence[Mapping[str, float]]) -> Knobs:
    words = np.stack([seed_words(seed) for seed in seeds])
    return Knobs(
        jnp.asarray(words), {name: jnp.array([v[name] for v in values]) for name in values[0]}
    )


def _lane(tree: Any, i: int) -> Any:
    """The figures of one lane."""
    return jax.tree.map(lambda leaf: float(leaf[i]), tree)
