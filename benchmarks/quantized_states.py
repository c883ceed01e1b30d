"""Time and memory of steps with quantized states, beside optax, torch, torchao and bitsandbytes.

python -m benchmarks.quantized_states
python -m benchmarks.quantized_states --peers=PATH_OF_A_PYTHON_WITH_TORCH
python -m benchmarks.quantized_states --parameters=268435456  # on a GPU, where a step is short

writes <out>.json and <out>.md and prints the table. Peers run in a process of their own, when it is
their turn, so that all see the same machine; the Python is this one where it has torch itself. What
counts on shared cores is the time of the processor, summed over threads; the time on the wall is
that of all cores. On a GPU it is the time on the wall, and the share of the bandwidth that the
least traffic of a step would take of it; there the steps with ``backend="pallas"`` are timed beside
the others, and torch's tensors lie on the same GPU.
"""

import argparse
import datetime
import functools
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optlab
from optlab.transforms import quantized

BASELINE = "optax.adamw"
BANDWIDTHS = {"NVIDIA H200": 4800.0}  # GB/s, of the data sheet


def methods() -> dict[str, optax.GradientTransformation]:
    """The steps to be timed, by name; the baseline first."""
    found = {
        BASELINE: optax.adamw(1e-3),
        "optax.lion": optax.lion(1e-3),
        "optax.sgd": optax.sgd(1e-3, 0.9),
        "adamw8bit": optlab.adamw8bit(1e-3),
        "adamw8bit, update": _without_step(optlab.adamw8bit(1e-3)),
        "adamw8bit(dynamic8)": optlab.adamw8bit(1e-3, codec="dynamic8"),
        "adamw4bit": optlab.adamw4bit(1e-3),
        "adamw_fp8": optlab.adamw_fp8(1e-3),
        "lion8bit": optlab.lion8bit(1e-3),
        "sgd8bit": optlab.sgd8bit(1e-3),
        "fused(optax.lion, None)": quantized.fused(optax.lion(1e-3), None),
    }
    if jax.default_backend() == "gpu":
        for name in ("adamw8bit", "adamw8bit(dynamic8)", "adamw_fp8", "lion8bit", "sgd8bit"):
            found[f"{name}, pallas"] = _in_kernel(found[name])
    return found


def _without_step(tx):
    return optax.GradientTransformationExtraArgs(tx.init, tx.update)


def _in_kernel(tx):
    step = functools.partial(tx.step, backend="pallas")
    return quantized.FusedTransformation(tx.init, tx.update, step)


class Stepper:
    """One optimizer with parameters and state of its own, which every step overwrites."""

    def __init__(self, tx: optax.GradientTransformation, params: Any, grads: Any):
        self.grads = grads
        self.carry = jax.tree.map(jnp.copy, (params, tx.init(params)))

        def step(carry, grads):
            params, state = carry
            return quantized.step(tx, params, grads, state)

        self.compiled = jax.jit(step, donate_argnums=0).lower(self.carry, grads).compile()
        size = sum(p.size for p in jax.tree.leaves(params))
        self.state_bytes = quantized.state_bytes(self.carry[1]) / size
        self.temp_bytes = self.compiled.memory_analysis().temp_size_in_bytes / size

    def __call__(self, steps: int) -> None:
        """Takes some steps, and waits for the last."""
        for _ in range(steps):
            self.carry = self.compiled(self.carry, self.grads)
        jax.block_until_ready(self.carry)


class Peers:
    """Optimizers of torch in a process of their own: see ``benchmarks/_torch_peers.py``."""

    def __init__(self, python: str, parameters: int, leaves: int, steps: int):
        script = pathlib.Path(__file__).with_name("_torch_peers.py")
        device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        self.process = subprocess.Popen(
            [python, str(script), *map(str, (parameters, leaves, steps)), device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._read()

    def sample(self, name: str) -> dict[str, float]:
        """The seconds of a step on the processor and on the wall."""
        assert self.process.stdin is not None
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while not (line := self.process.stdout.readline()).startswith("{"):
            if not line:
                raise RuntimeError("the process of the peers ended")
        return json.loads(line)


def timed(stepper: Stepper, steps: int) -> dict[str, float]:
    """The seconds of a step on the processor and on the wall: the mean of some."""
    wall, cpu = time.perf_counter(), time.process_time()
    stepper(steps)
    elapsed = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    return {clock: seconds / steps for clock, seconds in elapsed.items()}


def measure(
    parameters: int,
    leaves: int,
    repeats: int,
    steps: int,
    peers: Peers | None,
    bandwidth: float | None = None,
) -> dict[str, Any]:
    """Times all methods in turns; with a bandwidth in GB/s it tells what share each reaches."""
    rng = np.random.default_rng(0)
    shape = (parameters // leaves // 1024, 1024)

    def draw():
        return {str(i): jnp.asarray(rng.normal(size=shape), jnp.float32) for i in range(leaves)}

    params, grads = draw(), draw()
    steppers = {name: Stepper(tx, params, grads) for name, tx in methods().items()}
    samplers: dict[str, Callable[[], dict[str, float]]] = {
        name: functools.partial(timed, stepper, steps) for name, stepper in steppers.items()
    }
    rows = {
        name: {"state": stepper.state_bytes, "temp": stepper.temp_bytes}
        for name, stepper in steppers.items()
    }
    versions = {n: importlib.metadata.version(n) for n in ("jax", "jaxlib", "optax")}
    if peers is not None:
        versions |= peers.about["versions"]
        for name, state in peers.about["state_bytes"].items():
            samplers[name] = functools.partial(peers.sample, name)
            rows[name] = {"state": state / parameters, "temp": None}
    samples: dict[str, list] = {name: [] for name in samplers}
    for turn in range(repeats + 2):
        for name, sampler in samplers.items():
            sample = sampler()
            if turn >= 2:  # the first two warm up
                samples[name].append(sample)
    size = shape[0] * shape[1] * leaves
    for name, row in rows.items():
        for clock in ("cpu", "wall"):
            times = np.array([s[clock] for s in samples[name]])
            base = np.array([s[clock] for s in samples[BASELINE]])
            row[f"{clock}_ns"] = float(np.median(times)) * 1e9 / size
            row[f"{clock}_ratio"] = float(np.median(times / base))
        if bandwidth is not None:
            # Parameters and state are read and written, gradients read: a byte a ns is a GB a s.
            row["bandwidth_share"] = (12 + 2 * row["state"]) / row["wall_ns"] / bandwidth
    return {
        "benchmark": "quantized_states",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **versions},
        "platform": jax.devices()[0].platform,
        "device": jax.devices()[0].device_kind,
        "bandwidth": bandwidth,
        "cpu_count": os.cpu_count(),
        "load": os.getloadavg()[0],
        "parameters": size,
        "leaves": leaves,
        "repeats": repeats,
        "steps": steps,
        "baseline": BASELINE,
        "rows": rows,
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    taken = "a step" if result["steps"] == 1 else f"{result['steps']} steps"
    lines = [
        f"One step, {result['parameters']:,} float32 parameters in {result['leaves']} leaves, on "
        f"{result['cpu_count']} CPU cores (load {result['load']:.1f}), {result['date'][:10]}; "
        f"medians of {result['repeats']} rounds, in each of which every method takes {taken}. "
        f"{versions}.",
        "",
        f"| method | CPU ns/param | x {BASELINE} | wall ns/param | x {BASELINE} | "
        "state + temp bytes/param |",
        "|---|---|---|---|---|---|",
    ]
    bandwidth = result["bandwidth"]
    if bandwidth is not None:
        lines[0] += f" {result['device']}, {bandwidth:.0f} GB/s."
        lines[-2] += " share of the bandwidth |"
        lines[-1] += "---|"
    for name, row in result["rows"].items():
        temp = "" if row["temp"] is None else f" + {row['temp']:.2f}"
        lines.append(
            f"| `{name}` | {row['cpu_ns']:.2f} | {row['cpu_ratio']:.2f} | {row['wall_ns']:.2f} | "
            f"{row['wall_ratio']:.2f} | {row['state']:.2f}{temp} |"
        )
        if bandwidth is not None:
            lines[-1] += f" {row['bandwidth_share']:.0%} |"
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and reports; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantized_states",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    # On a GPU jax takes most of the memory at its first call, and torch's tensors need some too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    device = jax.devices()[0]
    out = pathlib.Path(f"benchmarks/results/quantized_states_{device.platform}")
    parser.add_argument("--parameters", type=int, default=1 << 24, help="in rows of 1024")
    parser.add_argument("--leaves", type=int, default=16, help="over which they are spread")
    parser.add_argument("--repeats", type=int, default=9, help="rounds of a step a method")
    steps = 10 if device.platform == "gpu" else 1
    parser.add_argument("--steps", type=int, default=steps, help="taken in a row, as one is short")
    parser.add_argument(
        "--peers",
        default=sys.executable if importlib.util.find_spec("torch") else None,
        help="a Python that has torch, torchao and bitsandbytes",
    )
    parser.add_argument(
        "--bandwidth",
        type=float,
        default=BANDWIDTHS.get(device.device_kind),
        help="of the device's memory, in GB/s",
    )
    parser.add_argument("--out", type=pathlib.Path, default=out, help="stem of the two files")
    flags = parser.parse_args(argv)
    positive = min(flags.leaves, flags.repeats, flags.steps) >= 1
    if not positive or flags.parameters < 4096 * flags.leaves:
        parser.error("--parameters must be at least 4096 a leaf, the others positive.")
    peers = None
    if flags.peers is not None:
        peers = Peers(flags.peers, flags.parameters, flags.leaves, flags.steps)
    result = measure(
        flags.parameters, flags.leaves, flags.repeats, flags.steps, peers, flags.bandwidth
    )
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    flags.out.with_suffix(".md").write_text(table(result), "utf-8")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
