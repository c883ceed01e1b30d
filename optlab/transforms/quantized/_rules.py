"""Which leaves of a state are kept in a codec, and in which one."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from optlab import codecs
from optlab.base import Codec, Encoded, PyTree

__all__ = [
    "SIGNED",
    "SMALLEST",
    "UNSIGNED",
    "CodecRule",
    "Where",
    "admits",
    "all_but_embeddings",
    "bare_path",
    "check_rule",
    "choose",
    "field_names",
    "is_encoded",
    "path_text",
]

SMALLEST = 4096  # entries: smaller leaves are many, weigh nothing, and hold what is delicate

CodecRule = (
    Codec | str | Mapping[str, Codec | str] | Sequence[tuple[str, Codec | str | None]] | None
)
Where = Callable[[str, jax.ShapeDtypeStruct], bool] | str

# Names of fields that hold moments.
SIGNED = ("mu", "m", "m1", "m2", "trace", "ema", "exp_avg")
UNSIGNED = ("nu", "nu_max", "v", "sum_of_squares", "exp_avg_sq")
# Fields that bear one of these names and hold something else.
_OTHERS = (
    ("ScaleByAdanState", "v"),  # an average of differences of gradients, with signs
    ("SophiaState", "nu"),  # an estimate of the Hessian's diagonal, with signs
    ("ScaleBySM3State", "mu"),  # sums of squares
    ("ScaleBySM3State", "nu"),  # a first moment, with signs
    # Centred RMSProp divides by the root of nu - mu^2, which rounding makes negative.
    ("ScaleByRStdDevState", "mu"),
    ("ScaleByRStdDevState", "nu"),
    ("ScaleByRStdDevWithCountState", "mu"),
    ("ScaleByRStdDevWithCountState", "nu"),
)
# Codecs for arrays with signs that have their counterpart under another name.
_PAIRS = {"dynamic4": "linear4_nozero"}
_UNSIGNED_ONLY = ("linear4_nozero", "rank1_linear4")


def all_but_embeddings(path: str, leaf: jax.ShapeDtypeStruct) -> bool:
    """The ``where`` that keeps the states of embeddings in float32, as stable embeddings ask for.

    Args:
        path: of a leaf of a state.
        leaf: its shape and dtype; not looked at.

    Returns:
        Whether no part of the path contains ``embed``, in any case of letters.

    >>> all_but_embeddings("0/mu/token_embedding/kernel", None)
    False

    References:
        T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise
        Quantization", ICLR 2022, arXiv:2110.02861
    """
    del leaf
    return "embed" not in path.lower()


def admits(where: Where | None, path: str, leaf: jax.ShapeDtypeStruct) -> bool:
    """Whether a leaf of a state may be coded, by the argument ``where``."""
    if where is None:
        return True
    if callable(where):
        return where(path, leaf)
    if not isinstance(where, str):
        raise ValueError(f"where must be a function or a regular expression, got {where!r}.")
    try:
        return re.search(where, path) is not None
    except re.error as error:
        raise ValueError(f"where must be a regular expression, got {where!r}: {error}.") from error


def is_encoded(node: Any) -> bool:
    """Whether a node of a state is an array at rest."""
    return isinstance(node, Encoded)


def path_text(path: Sequence[Any]) -> str:
    """A path as text, its parts joined by slashes: ``0/mu/dense/kernel``."""
    return jax.tree_util.keystr(bare_path(path), simple=True, separator="/")


def bare_path(path: Sequence[Any]) -> tuple[Any, ...]:
    """A path without the last part ``value``.

    Flax nnx shows its variables with it to ``init`` and without it to ``update``.
    """
    in_variable = path and isinstance(path[-1], jax.tree_util.GetAttrKey)
    return tuple(path[:-1] if in_variable and path[-1].name == "value" else path)


def check_rule(rule: CodecRule) -> CodecRule:
    """Reads the texts in a rule; raises ValueError in one sentence if it is none."""
    if rule is None:
        return None
    if isinstance(rule, str):
        _sibling(rule, signed=True)  # an unknown name is an error here, not at init
        return rule
    if isinstance(rule, Mapping):
        return {field: _check_named(codec) for field, codec in rule.items()}
    if isinstance(rule, Sequence):
        try:
            pairs = [(re.compile(pattern), codec) for pattern, codec in rule]
        except (TypeError, ValueError, re.error) as error:
            raise ValueError(f"codec must be a list of (regex, codec), got {rule!r}.") from error
        return tuple((pattern, _check_named(codec)) for pattern, codec in pairs)
    return _check_named(rule)


def _check_named(codec: Codec | str | None) -> Codec | str | None:
    if isinstance(codec, str):
        codecs.get(codec)  # an unknown name is an error here, not at init
    elif codec is not None and not hasattr(codec, "encode"):
        raise ValueError(f"codec must be a codec, its text, a dict or a list, got {codec!r}.")
    return codec


def choose(rule: CodecRule, state: PyTree, path: Sequence[Any]) -> Codec | None:
    """Chooses the codec of the leaf at ``path`` of a state; None leaves it alone.

    Args:
        rule: as :func:`check_rule` gave it.
        state: the state, to tell what owns a field.
        path: key path of the leaf.
    """
    if rule is None:
        return None
    fields = list(_fields_of(state, path))
    signed = _has_signs(fields)
    if isinstance(rule, tuple):
        text = path_text(path)
        named = next((codec for pattern, codec in rule if pattern.search(text)), None)
    elif isinstance(rule, dict):
        named = next((rule[field] for _, field in fields if field in rule), None)
    else:
        return None if signed is None else _sibling(rule, signed=signed)
    if isinstance(named, str):  # what a text leaves open is as the moment asks for
        free = signed is False and "signed" not in named
        return _with_signs(named, signed=False) if free else codecs.get(named)
    return named


def field_names(state: PyTree) -> set[str]:
    """The names of all fields of the NamedTuples in a state, those without leaves included."""
    if isinstance(state, Encoded):
        return set()
    children: Iterable[Any] = ()
    if isinstance(state, Mapping):
        children = state.values()
    elif isinstance(state, (tuple, list)):
        children = state
    found = set(getattr(state, "_fields", ()))
    return found.union(*map(field_names, children))


def _fields_of(state: PyTree, path: Sequence[Any]) -> Iterable[tuple[str, str]]:
    """The attributes on the way to a leaf, each with the class that has it, the outermost first."""
    node = state
    for key in bare_path(path):
        if isinstance(key, jax.tree_util.GetAttrKey):
            yield type(node).__name__, key.name
            node = getattr(node, key.name, None)
        elif isinstance(key, jax.tree_util.SequenceKey):
            node = node[key.idx] if isinstance(node, (list, tuple)) else None
        elif isinstance(key, jax.tree_util.DictKey):
            node = node[key.key] if isinstance(node, Mapping) else None


def _has_signs(fields: Sequence[tuple[str, str]]) -> bool | None:
    """Whether the moment among the fields on the way to a leaf has signs; None if it is none."""
    for owner, field in fields:
        if (owner, field) in _OTHERS:
            return None
        if field in SIGNED or field in UNSIGNED:
            return field in SIGNED
    return None


def _sibling(rule: Codec | str, *, signed: bool) -> Codec:
    """The codec of a rule for arrays with signs, or for arrays without."""
    if isinstance(rule, str):
        codec = _with_signs(rule, signed=signed)
    elif getattr(rule, "signed", signed) == signed:
        codec = rule
    else:  # what was set stays, what was not may have another default
        given, usual = codecs.spec(rule), codecs.spec(codecs.get(rule.name))
        changed = {name: value for name, value in given.items() if value != usual[name]}
        codec = codecs.get(rule.name, **{**changed, "signed": signed})
    if signed and codec.name in _UNSIGNED_ONLY:
        raise ValueError(f"codec {codec.name} knows no signs: name the fields that it is for.")
    return codec if signed or codec.name not in _PAIRS else codecs.get(_PAIRS[codec.name])


def _with_signs(text: str, *, signed: bool) -> Codec:
    """The codec of a text, for arrays with signs or without if it can be for either."""
    try:
        return codecs.get(text, signed=signed)
    except ValueError:  # it has no such option, or is unknown
        return codecs.get(text)
