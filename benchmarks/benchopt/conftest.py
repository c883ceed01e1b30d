"""Keeps pytest from importing what only benchopt can, and the file that changes JAX's dispatch."""

collect_ignore_glob = ["plugin.py", "solvers/*", "datasets/*", "clock/*"]
