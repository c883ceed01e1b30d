"""Optimizers by name, as they are written on the command line."""

import ast
from typing import Any

import optax

from optlab.catalog import OPTIMIZERS
from optlab.training import make_optimizer, optimizers

__all__ = ["BASELINE", "DEFAULT", "parse_methods"]

BASELINE = "optax.adamw"
_ROWS = {m.public: m for m in OPTIMIZERS}
DEFAULT = ",".join([BASELINE, "optax.lion", *_ROWS])


def parse_methods(text: str) -> dict[str, optax.GradientTransformation]:
    """Builds the optimizers that a comma-separated list names, the baseline first.

    Names are those of :func:`optlab.training.optimizers`: optlab's, else optax's, else
    optax.contrib's; ``optax.signum`` says which is meant. Keyword arguments follow in parentheses,
    in place of or beside those of the catalog's example.

    Args:
        text: such as ``lion, lion_k(kappa='nuclear')``.

    Returns:
        Transformations by their full names.

    Raises:
        ValueError: if the list, a name or an argument is wrong; the nearest names are offered.

    >>> list(parse_methods("lion, lion_k(weight_decay=0.0)"))
    ['optax.adamw', 'optax.lion', 'optlab.lion_k(weight_decay=0.0)']
    """
    try:
        node = ast.parse(f"[{text}]", mode="eval").body
    except SyntaxError:
        raise ValueError(
            f"--methods must be a list such as lion,lion_k(kappa='nuclear'), got {text!r}."
        ) from None
    if not isinstance(node, ast.List) or not node.elts:
        raise ValueError("--methods must name an optimizer.")
    methods = {BASELINE: _build(BASELINE, {})}
    for call in node.elts:
        function = call.func if isinstance(call, ast.Call) else call
        name = _full_name(ast.unparse(function))
        label = name + ast.unparse(call).removeprefix(ast.unparse(function))
        try:
            methods[label] = _build(name, _arguments(call))
        except ValueError as error:
            raise ValueError(f"--methods: {label}: {error}") from error
    return methods


def _full_name(name: str) -> str:
    factory = optimizers().get(name)
    return next((full for full, f in optimizers().items() if f is factory and "." in full), name)


def _arguments(call: ast.expr) -> dict[str, Any]:
    if not isinstance(call, ast.Call):
        return {}
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError("arguments are given by keyword only.")
    return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}


def _build(name: str, arguments: dict[str, Any]) -> optax.GradientTransformation:
    example = _ROWS[name].arguments if name in _ROWS else {}
    merged = {"learning_rate": 1e-3, **example, **arguments}
    return make_optimizer(name, merged.pop("learning_rate"), **merged)
