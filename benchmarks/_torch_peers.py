"""Steps of torch's optimizers on request, for :mod:`benchmarks.quantized_states`.

Run by another Python, one that has torch and perhaps torchao and bitsandbytes. It prints a line of
JSON about itself, then takes a step of the optimizer that each line of its input names, and prints
how long it took.
"""

import importlib.metadata
import json
import sys
import time

import torch

PARAMETERS, LEAVES = map(int, sys.argv[1:])


def make(factory):
    """An optimizer with parameters and gradients of its own, after its first step."""
    shape = (PARAMETERS // LEAVES // 1024, 1024)
    params = [torch.nn.Parameter(torch.randn(shape)) for _ in range(LEAVES)]
    for param in params:
        param.grad = torch.randn(shape)
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
        optimizer = optimizers[line.strip()]
        wall, cpu = time.perf_counter(), time.process_time()
        optimizer.step()
        seconds = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        print(json.dumps(seconds), flush=True)


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
