"""Checks of hyperparameters, shared by all layers."""

from typing import Any

import jax

__all__ = ["check_count", "check_range"]


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
