"""optlab's bilevel solvers in the harness of benchopt/benchmark_bilevel; see the README."""
