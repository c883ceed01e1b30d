"""One optimizer under the contract, and the trees and comparisons that the checks share."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

__all__ = [
    "Case",
    "avals",
    "expect",
    "expect_close",
    "expect_finite",
    "expect_identical",
    "like",
    "program",
    "small_tree",
    "tree",
]

RTOL, ATOL = 1e-4, 1e-6  # of results that differ only by how XLA fused the same arithmetic


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One optimizer under the contract.

    Attributes:
        label: the row's name, and the variant's in brackets.
        factory: a function of keyword arguments that gives an optax transformation.
        arguments: the arguments of the working example; ``learning_rate`` among them.
        state_bytes: promised bytes of state for one float32 parameter of a large matrix.
    """

    label: str
    factory: Callable[..., optax.GradientTransformation]
    arguments: Mapping[str, Any]
    state_bytes: float

    def make(self, **overrides: Any) -> optax.GradientTransformation:
        """Builds the optimizer, with ``overrides`` in place of or beside its arguments."""
        return self.factory(**{**self.arguments, **overrides})

    @functools.cached_property
    def tx(self) -> optax.GradientTransformation:
        """The optimizer as the catalog gives it."""
        return self.make()

    @functools.cached_property
    def update(self) -> Callable:
        """The jitted update, shared by the checks so that each shape is compiled once."""
        return jax.jit(self.tx.update)

    def run(self, params: Any, gradients: list, update: Callable | None = None) -> tuple:
        """Takes a step a gradient from ``params``; returns all updates, and the last state."""
        update = update or self.update
        state, found = self.tx.init(params), []
        for gradient in gradients:
            updates, state = update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            found.append(updates)
        return found, state


def like(params: Any, *, seed: int, scale: float = 1.0) -> Any:
    """Gives a tree of normal numbers with the shapes and dtypes of ``params``."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda p: jnp.asarray(scale * rng.standard_normal(p.shape), dtype=p.dtype), params
    )


def tree(dtype: Any = jnp.float32, *, seed: int = 0) -> dict:
    """Gives params of 0 to 4 dimensions, wide and tall, in nested containers."""
    shapes = {
        "conv": (2, 1, 3, 4),
        "dense": {"bias": (8,), "kernel": (4, 8)},
        "stack": [(2, 5, 3), ()],
    }
    zeros = jax.tree.map(
        lambda shape: jnp.zeros(shape, dtype), shapes, is_leaf=lambda s: isinstance(s, tuple)
    )
    return like(zeros, seed=seed)


def small_tree(*, seed: int = 0) -> dict:
    """Gives one matrix and one vector, for checks that compile a program of their own or none."""
    return like({"bias": jnp.zeros(8), "kernel": jnp.zeros((4, 8))}, seed=seed)


def program(function: Callable, *args: Any) -> tuple[str, list]:
    """Gives what a function is traced to, to be compared: a trace costs far less than a compile."""
    # A fresh function, as one that was traced before is not traced again.
    traced = jax.make_jaxpr(lambda *args: function(*args))(*args)
    constants = [(np.shape(c), np.asarray(c).tobytes()) for c in traced.consts]
    return re.sub(r"0x[0-9a-f]+", "", str(traced)), constants


def expect(condition: Any, sentence: str) -> None:
    """Raises AssertionError with ``sentence`` unless ``condition`` holds."""
    if not condition:
        raise AssertionError(sentence)


def avals(values: Any) -> Any:
    """Gives shape, dtype and weak type of every leaf, in the structure of ``values``."""
    return jax.tree.map(
        lambda x: (x.shape, str(x.dtype), bool(getattr(x, "weak_type", False))), values
    )


def _leaves(actual: Any, desired: Any, what: str):
    expect(
        jax.tree.structure(actual) == jax.tree.structure(desired),
        f"{what}: the tree is {jax.tree.structure(actual)}, not {jax.tree.structure(desired)}.",
    )
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(desired)]
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True)
    for path, (a, d) in zip(paths, pairs, strict=True):
        yield path, np.asarray(a), np.asarray(d)


def expect_identical(actual: Any, desired: Any, what: str) -> None:
    """Expects the same structure, dtypes and bits."""
    for path, a, d in _leaves(actual, desired, what):
        same = a.dtype == d.dtype and a.shape == d.shape and a.tobytes() == d.tobytes()
        expect(same, f"{what}: {path or 'the leaf'} is {a}, not bit for bit {d}.")


def expect_close(
    actual: Any, desired: Any, what: str, *, rtol: float = RTOL, atol: float = ATOL
) -> None:
    """Expects one structure, and values within ``atol + rtol * max`` of each leaf."""
    for path, a, d in _leaves(actual, desired, what):
        a, d = a.astype(np.float64), d.astype(np.float64)
        bound = atol + rtol * np.max(np.abs(d), initial=0.0)
        error = np.max(np.abs(a - d), initial=0.0)
        expect(error <= bound, f"{what}: {path or 'the leaf'} is off by {error:.2g} > {bound:.2g}.")


def expect_finite(values: Any, what: str) -> None:
    """Expects no NaN and no infinity."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(values):
        finite = np.isfinite(np.asarray(leaf).astype(np.float64)).all()
        expect(finite, f"{what}: {jax.tree_util.keystr(path) or 'the leaf'} holds {leaf}.")
