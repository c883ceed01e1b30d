"""Checkpoints of a pytree: what was saved comes back bit for bit, or not at all."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from optlab.base import PyTree
from optlab.training._config import ConfigError
from optlab.training._workdir import StorageError
from optlab.transforms.quantized import check_codecs

__all__ = ["Checkpoints"]

_KEPT = 2
_DIGESTS = "digests.json"


class Checkpoints:
    """The checkpoints of one run, the latest two of them, each with the config of its run.

    A tree is stored as one flat dict by dotted path, in a folder named after its step that appears
    in one move, with the SHA-256 of each of its files: orbax alone gives back flipped bits without
    a word. Orbax is imported when it is needed.

    Args:
        folder: where they are; it is made by the first save.

    Attributes:
        damaged: what is wrong with each checkpoint that :meth:`latest` passed over, by step. The
            next save removes them; its run makes them again, in the same bits.
    """

    def __init__(self, folder: str | os.PathLike):
        self._folder = pathlib.Path(folder).absolute()  # orbax takes no relative path
        self.damaged: dict[int, str] = {}

    def latest(self) -> int | None:
        """Gives the step of the newest sound checkpoint, None if there is none.

        A warning tells what is wrong with newer ones.
        """
        self.damaged, sound = {}, None
        for step in reversed(self._steps()):
            problem = self._problem(step)
            if not problem:
                sound = step
                break
            self.damaged[step] = problem
        if self.damaged:
            told = " and ".join(f"{s} ({problem})" for s, problem in self.damaged.items())
            then = "the run starts anew" if sound is None else f"the run goes on from {sound}"
            logging.warning("%s: damaged: %s; %s.", self._folder, told, then)
        return sound

    def config(self, step: int) -> Mapping[str, Any]:
        """Gives the config that was saved with a checkpoint."""
        return _orbax().metadata(self._folder / str(step)).custom_metadata["config"]

    def save(self, step: int, tree: PyTree, config: Mapping[str, Any]) -> None:
        """Saves a tree of arrays; when this returns, it is on disk.

        Args:
            step: of the run; it names the checkpoint.
            tree: any pytree of arrays.
            config: a JSON-able dict, kept with it.

        Raises:
            StorageError: if the disk is full, say; the earlier checkpoints are then as they were.
        """
        leaves = {path: _encode(leaf) for path, leaf in _flatten(tree).items() if leaf.size}
        draft = self._folder / f"{step}.tmp"
        writes = jax.process_index() == 0  # orbax shares the arrays out among several processes
        with self._storing(step):
            if writes:
                self._clean()
            _orbax().save(draft, leaves, custom_metadata={"config": config})
            if writes:
                (draft / _DIGESTS).write_text(json.dumps(_digests(draft)), encoding="utf-8")
                draft.rename(self._folder / str(step))
                for old in self._steps()[:-_KEPT]:
                    _remove(self._folder / str(old))

    def restore(self, step: int, like: PyTree) -> PyTree:
        """Restores a tree.

        Args:
            step: of the checkpoint.
            like: a tree of arrays of the structure, shapes and dtypes to expect.

        Returns:
            The tree that was saved.

        Raises:
            ConfigError: if paths, shapes or dtypes differ, which orbax would cast or misreport, or
                the codecs of quantized states; the message names them.
        """
        folder = self._folder / str(step)
        targets = _flatten(like)
        codes = {path: _encode(leaf) for path, leaf in targets.items() if leaf.size}
        stored = _orbax().metadata(folder).metadata
        here = {path: _kind(leaf) for path, leaf in codes.items()}
        there = {path: _kind(leaf) for path, leaf in stored.items()}
        differing = [
            f"{path} is {there.get(path, 'absent')} there and {here.get(path, 'absent')} here"
            for path in sorted(here.keys() | there.keys())
            if here.get(path) != there.get(path)
        ]
        if differing:
            records = {
                path: jax.ShapeDtypeStruct(stored[path].shape, leaf.dtype, sharding=leaf.sharding)
                for path, leaf in targets.items()
                if path.rpartition(".")[2] == "codecs" and path in stored
            }
            self._check_codecs(step, _load_some(folder, records), like)
            more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise ConfigError(
                f"checkpoint {folder} is of another state: {'; '.join(differing[:3])}{more}."
            )
        abstract = {
            path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for path, leaf in codes.items()
        }
        loaded = _orbax().load(folder, abstract)
        leaves = {
            path: _decode(loaded[path], leaf) if leaf.size else leaf
            for path, leaf in targets.items()
        }
        self._check_codecs(step, leaves, like)
        return jax.tree.unflatten(jax.tree.structure(like), leaves.values())

    def _check_codecs(self, step: int, found: Mapping[str, jax.Array], like: PyTree) -> None:
        """Refuses quantized states in other codecs; ``found`` has the leaves that tell them."""
        leaves = (_flatten(like) | found).values()
        try:
            check_codecs(jax.tree.unflatten(jax.tree.structure(like), leaves), like)
        except ValueError as error:
            folder = self._folder / str(step)
            raise ConfigError(f"checkpoint {folder} is of another optimizer: {error}") from error

    def _steps(self) -> list[int]:
        """The steps that have a checkpoint, sound or not."""
        if not self._folder.is_dir():
            return []
        folders = (path for path in self._folder.iterdir() if path.is_dir())
        return sorted(int(folder.name) for folder in folders if folder.name.isdecimal())

    def _problem(self, step: int) -> str:
        """Tells what is wrong with the files of a checkpoint; nothing if they are as saved."""
        folder = self._folder / str(step)
        try:
            recorded = json.loads((folder / _DIGESTS).read_bytes())
            found = _digests(folder)
        except (OSError, ValueError):
            return f"{_DIGESTS} cannot be read"
        for name, digest in recorded.items():
            if name not in found:
                return f"{name} is missing"
            if found[name] != digest:
                return f"{name} is not what was saved"
        return ""

    def _clean(self) -> None:
        """Removes what no run goes on from: drafts that a kill left, and damaged checkpoints."""
        for draft in self._folder.glob("*.tmp*"):
            shutil.rmtree(draft)
        for step in self.damaged:
            _remove(self._folder / str(step))
        self.damaged = {}

    @contextlib.contextmanager
    def _storing(self, step: int) -> Iterator[None]:
        """Tells in one sentence that the system refused to write, and takes the draft away."""
        try:
            yield
        except (OSError, ValueError) as error:
            code = re.search(r"os_error_code='(\d+)'", str(error))  # of tensorstore
            reason = os.strerror(int(code[1])) if code else getattr(error, "strerror", None)
            if reason is None:
                raise
            for _ in range(100):  # while other threads of orbax still write into it
                for draft in self._folder.glob("*.tmp*"):
                    shutil.rmtree(draft, ignore_errors=True)
                time.sleep(0.01)
            steps = self._steps()
            kept = f"the latest is that of step {steps[-1]}" if steps else "there is none yet"
            raise StorageError(
                f"checkpoint {step} cannot be saved in {self._folder}: {reason}; {kept}."
            ) from error


def _orbax() -> Any:
    from orbax.checkpoint import v1  # takes a second

    return v1


def _load_some(folder: pathlib.Path, wanted: Mapping[str, Any]) -> Mapping[str, jax.Array]:
    """Loads some leaves by path."""
    if not wanted:
        return {}
    orbax = _orbax()
    context = orbax.Context()
    context.pytree.loading.partial_load = True
    with context:
        return orbax.load(folder, wanted)


def _digests(folder: pathlib.Path) -> dict[str, str]:
    """The SHA-256 of every file, by its path in the folder."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != _DIGESTS:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(folder).as_posix()] = digest
    return digests


def _remove(folder: pathlib.Path) -> None:
    """Removes a checkpoint by way of another name: a kill leaves it whole, or as a draft."""
    shutil.rmtree(folder.rename(folder.with_name(f"{folder.name}.tmp")))


def _flatten(tree: PyTree) -> dict[str, jax.Array]:
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _kind(leaf: Any) -> str:
    return f"{jnp.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"


# Orbax refuses zero-size arrays (left out: the target has them already) and 2- and 4-bit unsigned
# integers, and describes typed keys by words of its own; the latter two go as what they hold.
def _encode(leaf: jax.Array) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf.astype(jnp.uint8) if leaf.dtype in (jnp.uint2, jnp.uint4) else leaf


def _decode(code: jax.Array, like: jax.Array) -> jax.Array:
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(code, impl=jax.random.key_impl(like))
    return code.astype(like.dtype)
