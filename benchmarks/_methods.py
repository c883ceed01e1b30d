"""Optimizers by name, as they are written on the command line."""

import ast
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab import transforms
from optlab.catalog import OPTIMIZERS
from optlab.training import make_optimizer, optimizers
from optlab.transforms.curvature import layer_taps
from optlab.transforms.low_rank import SpectralFactors

__all__ = ["BASELINE", "DEFAULT", "Subject", "parse_methods"]

BASELINE = "optax.adamw"
_ROWS = {m.public: m for m in OPTIMIZERS}


class Subject(NamedTuple):
    """An optimizer and what it needs beside parameters, gradients and a loss.

    Attributes:
        tx: the transformation.
        trained: of a tree like params, what the method has in its place.
        extra: of the gradients, further keyword arguments of the update.
        note: what a reader of its figures should know.
    """

    tx: optax.GradientTransformation
    trained: Callable[[Any], Any] = lambda tree: tree
    extra: Callable[[Any], Mapping[str, Any]] = lambda grads: {}
    note: str = ""


def _factors(tree):
    """A tree whose kernels are in factors; any will do for their sizes' sake."""

    def leaf(name, w):
        if not name.endswith("kernel"):
            return w
        d = min(w.shape)
        return SpectralFactors(w[:, :d], jnp.ones(d), w[:d].T)

    return {name: leaf(name, w) for name, w in tree.items()}


_STATISTICS = {
    "extra": lambda grads: {"statistics": jax.tree.map(lambda x: x + 0.02, layer_taps(grads))},
    "note": "the means of the layers' inputs and output gradients are given, not computed",
}
_BETWEEN = {"note": "steps between two fits of the subspace, whose cost projections_cpu.md tells"}
_PLAIN = {
    "note": "by the plain update; quantized_states_cpu.md has optlab.step, which has next to no "
    "temporaries and takes less time"
}
_NEEDS = {
    **{m.public: _PLAIN for m in OPTIMIZERS if m.family == "transforms.quantized"},
    "optlab.fira": _BETWEEN,
    "optlab.galore": _BETWEEN,
    "optlab.natural_galore": _BETWEEN,
    "optlab.m_fac": {
        "note": "its window of 8 gradients takes 32 bytes a parameter, the paper's 512 take 2,048; "
        "time grows as the window does"
    },
    "optlab.mkor": _STATISTICS,
    "optlab.mkor_h": {**_STATISTICS, "note": f"before its switch; {_STATISTICS['note']}"},
    "optlab.n_harpg": {
        "extra": lambda grads: {"hvp": grads},
        "note": "the Hessian-vector product is given, not computed",
    },
    "optlab.sparse_spectral": {
        "trained": _factors,
        "note": "on kernels in factors, between two decompositions",
    },
}
# Parts of chains, in the smallest one.
_CHAINS = {
    "optlab.limit_norm_growth": lambda part, sgd: optax.chain(part, sgd),
    "optlab.percentile_clip": lambda part, sgd: optax.chain(part, sgd),
    "optlab.polynomial_averaging": lambda part, sgd: optax.chain(sgd, part),
}

# The catalog's examples suit the tests' small trees; these suit matrices of some hundred rows.
_SIZED = {
    "optlab.dct_adamw": "(rank=128)",
    "optlab.fira": "(rank=128, update_interval=200)",
    "optlab.galore": "(rank=128, update_interval=200)",
    "optlab.m_fac": "(history=8)",
    "optlab.natural_galore": "(rank=128, update_interval=200, history=20)",
    "optlab.sparse_spectral": "(rank=64)",
    "optlab.trion": "(rank=128)",
}
_PEERS = [BASELINE, "optax.lion", "optax.contrib.muon"]
_NAMES = dict.fromkeys([*_PEERS, *_ROWS, *_NEEDS, *_CHAINS])
DEFAULT = ",".join(name + _SIZED.get(name, "") for name in _NAMES)


def parse_methods(text: str) -> dict[str, Subject]:
    """Builds the optimizers that a comma-separated list names, the baseline first.

    Names are those of :func:`optlab.training.optimizers`: optlab's, else optax's, else
    optax.contrib's; ``optax.signum`` says which is meant. Keyword arguments follow in parentheses,
    in place of or beside those of the catalog's example.

    Args:
        text: such as ``lion, lion_k(kappa='nuclear')``.

    Returns:
        What is to be measured, by full names.

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
    if f"optlab.{name}" in _CHAINS:
        return f"optlab.{name}"
    factory = optimizers().get(name)
    return next((full for full, f in optimizers().items() if f is factory and "." in full), name)


def _arguments(call: ast.expr) -> dict[str, Any]:
    if not isinstance(call, ast.Call):
        return {}
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError("arguments are given by keyword only.")
    return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}


def _build(name: str, arguments: dict[str, Any]) -> Subject:
    example = _ROWS[name].arguments if name in _ROWS else {}
    merged = {"learning_rate": 1e-3, **example, **arguments}
    rate = merged.pop("learning_rate")
    if name in _CHAINS:
        part = getattr(transforms, name.removeprefix("optlab."))(**merged)
        return Subject(_CHAINS[name](part, optax.sgd(rate)), note="in a chain with optax.sgd")
    return Subject(make_optimizer(name, rate, **merged), **_NEEDS.get(name, {}))
