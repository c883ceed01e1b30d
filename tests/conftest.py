"""Settings of every test: four virtual CPU devices, and rank promotion is an error."""

import itertools
import os
from pathlib import Path

# Before jax starts a backend. Four devices serve the sharding checks; all else uses the first.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")

import jax

MAPS = Path("/proc/self/maps")
MOST_MAPS = 25_000
_tests = itertools.count(1)


def pytest_runtest_teardown():
    """Drops the compiled programs of a long run.

    Each holds some memory maps, of which Linux grants a process 65,530: beyond them XLA ends with a
    segmentation fault.
    """
    if next(_tests) % 20 or not MAPS.exists():
        return
    if MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
