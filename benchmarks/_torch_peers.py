"""Steps of torch's optimizers on request, for :mod:`benchmarks.quantized_states`.

    python _torch_peers.py PARAMETERS LEAVES STEPS DEVICE

is run by a Python that has torch and perhaps torchao and bitsandbytes. It prints a line of JSON
about itself, then takes so many steps of the optimizer that each line of its input names, and
prints how long one took. All tensors are on the device, ``cpu`` or ``cuda``.
"""

import importlib.metadata
import json
import sys
import time

import torch

PARAMETERS, LEAVES, STEPS = map(int, sys.argv[1:4])
DEVICE = sys.argv[4]


def make(factory):
    """An optimizer with parameters and gradients of its own, after its first step."""
    shape = (PARAMETERS // LEAVES // 1024, 1024)
    params = [torch.nn.Parameter(torch.randn(shape, device=DEVICE)) for _ in range(LEAVES)]
    for param in params:
        param.grad = torch.randn(shape, device=DEVICE)
    optimizer = factory(params)
    optimizer.step()
    return optimizer


def state_bytes(optimizer) -> int:
    """The bytes of the moments, their scales included."""
    total = 0
    for state in optimizer.state.values():
        for value in state.values():
            parts = value.__tensor_flatten__()[0] if hasattr(value, "__tensor_flatten__") else None
            tensors = [getattr(value, p) for p in parts] if parts else [value]
            tensors = [t for t in tensors if isinstance(t, torch.Tensor) and t.numel() > 256]
            total += sum(t.numel() * t.element_size() for t in tensors)
    return total


def factories():
    """The optimizers that this Python has, by name."""
    found = {"torch AdamW fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True)}
    try:
        from torchao.optim import AdamW4bit, AdamW8bit, AdamWFp8

        found["torchao AdamW8bit"] = lambda p: AdamW8bit(p, lr=1e-3)
        found["torchao AdamWFp8"] = lambda p: AdamWFp8(p, lr=1e-3)
        found["torchao AdamW4bit"] = lambda p: AdamW4bit(p, lr=1e-3)
    except ImportError:
        pass
    try:
        import bitsandbytes

        found["bitsandbytes AdamW8bit"] = lambda p: bitsandbytes.optim.AdamW8bit(p, lr=1e-3)
        found["bitsandbytes Lion8bit"] = lambda p: bitsandbytes.optim.Lion8bit(p, lr=1e-3)
    except ImportError:
        pass
    return found


def main() -> None:
    """Answers until the input ends."""
    optimizers = {}
    for name, factory in factories().items():
        try:
            optimizers[name] = make(factory)
        except Exception as error:  # a backend that this machine lacks
            print(f"{name}: {error}", file=sys.stderr)
    names = [n for n in ("torch", "torchao", "bitsandbytes") if _version(n)]
    about = {
        "versions": {n: _version(n) for n in names},
        "state_bytes": {n: state_bytes(o) for n, o in optimizers.items()},
    }
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        print(json.dumps(timed(optimizers[line.strip()])), flush=True)


def timed(optimizer) -> dict[str, float]:
    """Seconds of a step on the processor and on the wall, until the device has taken it."""
    wait()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(STEPS):
        optimizer.step()
    wait()
    elapsed = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    return {clock: seconds / STEPS for clock, seconds in elapsed.items()}


def wait() -> None:
    """Waits until the device has done all it was told: torch only puts steps into its queue."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
