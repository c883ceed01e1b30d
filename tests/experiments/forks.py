"""Command lines that end before they compute, without an import of jax for each."""

import json
import pathlib
import subprocess
import sys
import tempfile

__all__ = ["run_in_forks"]

ROOT = pathlib.Path(__file__).parents[2]

# Imports what all binaries do, and runs each command line as `python -m` would, in a fork.
_SERVER = """
import json, os, runpy, sys
import ml_collections.config_flags, optlab.training.bilevel
codes = []
for i, (module, *args) in enumerate(json.loads(sys.argv[1])):
    child = os.fork()
    if not child:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{sys.argv[2]}/{i}.{name}", os.O_CREAT | os.O_WRONLY), stream)
        sys.argv = [module, *args]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        sys.exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


def run_in_forks(commands: list) -> list:
    """Runs each ``[module, *arguments]``; gives the exit code, stdout and stderr of each."""
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.run(
            [sys.executable, "-c", _SERVER, json.dumps(commands), folder],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert server.returncode == 0, server.stderr
        codes = json.loads(server.stdout)
        texts = (
            [(pathlib.Path(folder) / f"{i}.{name}").read_text() for name in ("out", "err")]
            for i in range(len(commands))
        )
        return [(code, *text) for code, text in zip(codes, texts, strict=True)]
