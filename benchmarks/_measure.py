"""Times optimizer steps side by side, and counts the bytes they hold."""

import datetime
import importlib.metadata
import math
import os
import platform
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks._methods import BASELINE, Subject

__all__ = ["SMALLEST", "measure", "transformer_shapes"]

SMALLEST = 1_000  # parameters: one block of width 8
_SAMPLE_SECONDS = (
    0.02  # a sample is as many steps as last this long: the clock and the dispatch then do not show
)
_FEWEST_SAMPLES = 3


def transformer_shapes(parameters: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a slice of GPT-2 small.

    Its blocks are 768 wide, or narrower where two would not fit; they take nine tenths of the
    parameters at most, the embeddings take the rest.

    Args:
        parameters: how many to share out, at least ``SMALLEST``.

    Returns:
        Shapes by name; they add up to ``parameters`` within half a row of the embeddings.

    >>> shapes = transformer_shapes(16_000_000)
    >>> shapes["block_0/attention/qkv/kernel"], shapes["embedding/token"]
    ((768, 2304), (2077, 768))
    """
    for width in range(768, 0, -8):
        block = {
            "norm_1/scale": (width,),
            "norm_1/bias": (width,),
            "attention/qkv/kernel": (width, 3 * width),
            "attention/qkv/bias": (3 * width,),
            "attention/out/kernel": (width, width),
            "attention/out/bias": (width,),
            "norm_2/scale": (width,),
            "norm_2/bias": (width,),
            "mlp/up/kernel": (width, 4 * width),
            "mlp/up/bias": (4 * width,),
            "mlp/down/kernel": (4 * width, width),
            "mlp/down/bias": (width,),
        }
        size = sum(map(math.prod, block.values()))
        if 20 * size <= 9 * parameters or width == 8:
            break
    depth = max(1, 9 * parameters // (10 * size))
    rows = max(2, round((parameters - depth * size) / width) - 2)  # two rows are the final norm's
    positions = max(1, rows // 8)
    return {
        "embedding/token": (rows - positions, width),
        "embedding/position": (positions, width),
        **{f"block_{i}/{name}": shape for i in range(depth) for name, shape in block.items()},
        "norm/scale": (width,),
        "norm/bias": (width,),
    }


class _Stepper:
    """One optimizer with its own parameters and state, which every step donates."""

    def __init__(self, subject: Subject, params, grads):
        tx = optax.with_extra_args_support(subject.tx)

        def step(grads, params, state, extra):
            updates, state = tx.update(
                grads, state, params, value=jnp.ones(()), grad=grads, **extra
            )
            return optax.apply_updates(params, updates), state

        self.grads, self.extra = subject.trained(grads), subject.extra(grads)
        # Copies: what is donated must not be shared, and some states begin as the very arrays of
        # the parameters.
        self.params = jax.tree.map(jnp.copy, subject.trained(params))
        self.state = jax.tree.map(jnp.copy, tx.init(self.params))
        self.state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(self.state))
        start = time.perf_counter()
        inputs = (self.grads, self.params, self.state, self.extra)
        lowered = jax.jit(step, donate_argnums=(1, 2)).lower(*inputs)
        self.step = lowered.compile()
        self.compile_seconds = time.perf_counter() - start
        # Not peak_memory_in_bytes: on CPU that leaves the temporaries out.
        self.temp_bytes = self.step.memory_analysis().temp_size_in_bytes

    def seconds(self, steps: int) -> float:
        """Mean time of a step; only the last is waited for, so that a GPU's queue stays full."""
        params, state = self.params, self.state
        start = time.perf_counter()
        for _ in range(steps):
            params, state = self.step(self.grads, params, state, self.extra)
        jax.block_until_ready((params, state))
        elapsed = time.perf_counter() - start
        self.params, self.state = params, state
        return elapsed / steps


def measure(
    methods: Mapping[str, Subject],
    *,
    parameters: int,
    repeats: int,
    seconds: float,
) -> dict[str, Any]:
    """Times ``methods`` in turns on the same fixed gradients.

    A round takes one sample of each method, so that a machine that slows down slows all of them;
    a method too slow for its share of time sits out some rounds, evenly spread.

    Args:
        methods: what to time by label, the baseline among them.
        parameters: about how many float32 parameters.
        repeats: rounds.
        seconds: the most time that the samples of one method take, beyond the first three.

    Returns:
        What ``json.dump`` can write: the circumstances, and one row a method in the order given.
    """
    shapes = transformer_shapes(parameters)
    rng = np.random.default_rng(0)
    params, grads = (
        {n: jnp.asarray(rng.normal(0.0, 0.02, s), jnp.float32) for n, s in shapes.items()}
        for _ in range(2)
    )
    count = sum(map(math.prod, shapes.values()))

    steppers, steps, samples = {}, {}, {}
    for label, subject in methods.items():
        stepper = steppers[label] = _Stepper(subject, params, grads)
        stepper.seconds(3)  # the allocator settles
        once = min(stepper.seconds(1) for _ in range(3))
        steps[label] = max(1, round(_SAMPLE_SECONDS / once))
        affordable = int(seconds / (once * steps[label]))
        samples[label] = min(repeats, max(_FEWEST_SAMPLES, affordable))
        print(
            f"{label}: compiled in {stepper.compile_seconds:.1f} s, {1e3 * once:.3g} ms a step, "
            f"{samples[label]} samples to come",
            file=sys.stderr,
            flush=True,
        )

    times = {label: [] for label in methods}
    ratios = {label: [] for label in methods}
    turns = [BASELINE, *(label for label in methods if label != BASELINE)]
    for turn in range(repeats):
        for label in turns:
            if turn * samples[label] % repeats < samples[label]:
                times[label].append(steppers[label].seconds(steps[label]))
                ratios[label].append(times[label][-1] / times[BASELINE][-1])

    return {
        "benchmark": "step_time",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "optax")},
        },
        "platform": jax.devices()[0].platform,
        "device": jax.devices()[0].device_kind,
        "cpu_count": os.cpu_count(),
        "parameters": count,
        "leaves": len(shapes),
        "baseline": BASELINE,
        "repeats": repeats,
        "seconds": seconds,
        "rows": [
            {
                "method": label,
                "ns_per_parameter": _quartiles(1e9 / count * np.array(times[label])),
                "ratio": _quartiles(np.array(ratios[label])),  # to the baseline's last sample
                "temp_bytes": stepper.temp_bytes,
                "temp_bytes_per_parameter": stepper.temp_bytes / count,
                "state_bytes": stepper.state_bytes,
                "state_bytes_per_parameter": stepper.state_bytes / count,
                "samples": samples[label],
                "steps_per_sample": steps[label],
                "compile_seconds": stepper.compile_seconds,
                "note": methods[label].note,
            }
            for label, stepper in steppers.items()
        ],
    }


def _quartiles(values: np.ndarray) -> dict[str, float]:
    lower, median, upper = np.percentile(values, [25, 50, 75]).tolist()
    return {"median": median, "lower": lower, "upper": upper}
