"""Makes JAX wait for its results, so that the benchmark's clock is read when they are there.

On CPU a call returns before its work is done, and the benchmark's callback does not wait: without
this file, which Python imports by itself from PYTHONPATH, a run reads 0.0 s.
"""

import contextlib

with contextlib.suppress(ImportError):  # a Python without JAX has nothing to wait for
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
