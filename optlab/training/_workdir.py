"""The folder of a run: one config, its manifest, and nothing of any other run."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import jax
from absl import logging

from optlab._version import __version__
from optlab.training._config import ConfigError, RunConfig

__all__ = ["InUseError", "StorageError", "Workdir", "storing", "write_text"]


class InUseError(ConfigError):
    """A workdir that another process has, told in one sentence."""


class StorageError(Exception):
    """A disk that is full or broken, told in one sentence; what was saved before is intact."""


class Workdir:
    """The folder of a run of one config. Of several processes of one run, the first writes.

    Args:
        path: a folder, absent, empty or that of an earlier process of the same run.
        config: of the run.

    Raises:
        ConfigError: if it is no folder, cannot be read, or holds a run of another config.
    """

    def __init__(self, path: str | os.PathLike, config: RunConfig):
        self.path = pathlib.Path(path)
        try:  # by way of JSON: tuples become lists, as they will when it is read back
            self.config = json.loads(json.dumps(dataclasses.asdict(config)))
        except TypeError as error:
            raise ConfigError(f"config cannot be recorded as JSON: {error}.") from error
        self.check_recorded()

    def check_recorded(self) -> None:
        """Refuses a config that differs from that of the folder.

        Raises:
            ConfigError: if so, or if the folder cannot be read.
        """
        try:
            if recorded := self.read("config.json"):
                self.check_same(recorded)
        except OSError as error:
            raise ConfigError(
                f"workdir {str(self.path)!r} cannot be read: {error.strerror}."
            ) from error

    def check_writable(self) -> None:
        """Refuses a folder that cannot be written, without trying.

        Raises:
            ConfigError: if so.
        """
        folder = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        if not folder.is_dir():
            raise ConfigError(f"workdir {str(self.path)!r} needs {folder} to be a folder.")
        # The superuser may write anywhere, but a folder without write bits was meant to be kept.
        if not (os.access(folder, os.W_OK) and folder.stat().st_mode & 0o222):
            raise ConfigError(
                f"workdir {str(self.path)!r} cannot be written: {folder} is read-only."
            )

    def check_same(self, recorded: Mapping[str, Any]) -> None:
        """Refuses a config that differs from a recorded one.

        Args:
            recorded: as read from JSON.

        Raises:
            ConfigError: if a field differs; the message names them all.
        """
        here, there = _flatten(self.config), _flatten(recorded)
        differing = [
            f"{name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} here"
            for name in sorted(here.keys() | there.keys())
            if here.get(name) != there.get(name) and name != "profile_steps"
        ]
        if differing:
            raise ConfigError(
                f"workdir {str(self.path)!r} holds a run of another config: {'; '.join(differing)}."
            )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other runs out of the folder, which it makes.

        The lock is the kernel's, which takes it back from a process that dies of anything. A folder
        that stays empty goes with it.

        Raises:
            InUseError: if another process has it.
            ConfigError: if the folder cannot be made.
        """
        if not self._writes:
            yield
            return
        missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
        file = self.path / ".lock"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = self._acquire(file)
        except OSError as error:
            raise ConfigError(
                f"workdir {str(self.path)!r} cannot be written: {error.strerror}."
            ) from error
        try:
            self.check_recorded()  # by a process that has just ended
            yield
        finally:
            file.unlink(missing_ok=True)
            os.close(descriptor)
            with contextlib.suppress(OSError):  # not empty
                for folder in missing:
                    folder.rmdir()

    def _acquire(self, file: pathlib.Path) -> int:
        """Gives a descriptor that holds the lock."""
        import fcntl  # not on Windows

        while True:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(descriptor, 100).decode(errors="replace") or "another process"
                os.close(descriptor)
                raise InUseError(f"workdir {str(self.path)!r} is in use by {owner}.") from None
            except OSError as error:
                logging.warning("%s: this file system has no locks (%s).", file, error.strerror)
            # The last owner takes its file away, and a lock on that would keep nobody out.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(file)):
                    break
            os.close(descriptor)
        with contextlib.suppress(OSError):  # the disk may be full, and the lock does without
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
        return descriptor

    def read(self, name: str) -> dict[str, Any]:
        """Reads a JSON file, {} if there is none."""
        file = self.path / name
        try:
            found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ConfigError(
                f"workdir {str(self.path)!r} holds a {name} that is no record of a run."
            )
        return found

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes a JSON file, whole or not at all."""
        if self._writes:
            write_text(self.path / name, json.dumps(value, indent=2) + "\n")

    def write_manifest(self, status: str, seconds: float, **facts: Any) -> None:
        """Records what ran, on what, and how it ended.

        Args:
            status: ``running``, ``preempted``, ``diverged`` or ``done``.
            seconds: wall time of the run so far, over all its processes.
            **facts: what else there is to say of the run.
        """
        device = jax.devices()[0]
        packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
        versions = {"python": platform.python_version(), "optlab": __version__}
        versions |= {package: metadata.version(package) for package in packages}
        self.write(
            "manifest.json",
            {
                "status": status,
                "command": shlex.join([sys.executable, *sys.orig_argv[1:]]),
                "seed": self.config["seed"],
                "seconds": round(seconds, 3),
                "device": f"{device.device_kind} ({device.platform})",
                "peak_device_bytes": _peak_device_bytes(),
                "git": self._git,
                "versions": versions,
                **facts,
            },
        )

    @functools.cached_property
    def _writes(self) -> bool:
        return jax.process_index() == 0

    @functools.cached_property  # before the run: what is edited meanwhile is not what runs
    def _git(self) -> dict[str, Any] | None:
        """The commit that is checked out where the command runs, None if there is none."""
        command = "git --no-optional-locks describe --always --dirty --abbrev=40 --exclude=*"
        try:
            out = subprocess.run(
                command.split(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
                timeout=9,
            ).stdout.decode()
        except (OSError, subprocess.SubprocessError):
            return None
        sha, _, dirty = out.strip().partition("-")
        return {"sha": sha, "dirty": bool(dirty)}


def _peak_device_bytes() -> int | None:
    """The most memory that a device of this process has held, None if the backend does not tell."""
    counts = [device.memory_stats() or {} for device in jax.local_devices()]
    return max((c["peak_bytes_in_use"] for c in counts if "peak_bytes_in_use" in c), default=None)


@contextlib.contextmanager
def storing(file: str | os.PathLike) -> Iterator[None]:
    """Tells in one sentence that the system refused to write a file.

    Raises:
        StorageError: if so.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{os.fspath(file)} cannot be written: {error.strerror}; what was saved before is "
            "intact, and the same command goes on from there."
        ) from error


def write_text(file: pathlib.Path, text: str) -> None:
    """Writes a file in one move: a reader, or a kill, never sees half of it."""
    draft = file.with_name(file.name + ".tmp")
    with storing(file):
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(file)
        except OSError:
            draft.unlink(missing_ok=True)
            raise


def _flatten(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{above}{name}.")
        else:
            flat[above + name] = value
    return flat
