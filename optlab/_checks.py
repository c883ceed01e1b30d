"""Checks of hyperparameters and of trees, shared by all layers."""

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["check_count", "check_floats", "check_like", "check_range"]


def check_range(name: str, value: Any, low: float, high: float, *, closed: str = "[)") -> None:
    """Raises ValueError unless ``value`` lies between ``low`` and ``high``.

    Only Python numbers are checked: under ``optax.inject_hyperparams`` a hyperparameter is a traced
    array, and a schedule is a function.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    above = low <= value if closed[0] == "[" else low < value
    below = value <= high if closed[1] == "]" else value < high
    if not (above and below):
        interval = f"{closed[0]}{low:g}, {high:g}{closed[1]}"
        raise ValueError(f"{name} must lie in {interval}, got {value}.")


def check_count(name: str, value: Any, low: int) -> None:
    """Raises ValueError unless ``value`` is an integer of at least ``low``, or an array."""
    if isinstance(value, jax.Array):
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}, got {value!r}.")


def check_floats(name: str, tree: Any) -> None:
    """Raises TypeError unless all leaves are floating-point, numbers of Python included."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"{name} must hold floating-point arrays, but {name}"
                f"{jax.tree_util.keystr(path)} has dtype {jnp.result_type(leaf)}."
            )


def check_like(name: str, got: Any, like_name: str, like: Any, *, hint: str = "") -> None:
    """Raises TypeError unless a tree, of arrays or of shapes, has the form of another.

    Args:
        name: of the tree that is checked.
        got: that tree.
        like_name: of the other, whose structure, shapes and dtypes it must have.
        like: the other.
        hint: ends the sentence: what the mistake may be.
    """
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda: like))
    got = jax.eval_shape(lambda: got)
    if jax.tree.structure(got) != structure:
        raise TypeError(
            f"{name} must have the structure of {like_name}, {structure}, got"
            f" {jax.tree.structure(got)}{hint}."
        )
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(got), leaves, strict=True):
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            place = jax.tree_util.keystr(path) or "its root"
            raise TypeError(
                f"{name} must be like {like_name}, but at {place} it is {x.dtype}{list(x.shape)}"
                f" and {like_name} is {y.dtype}{list(y.shape)}{hint}."
            )
