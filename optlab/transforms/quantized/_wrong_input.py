"""What is said of wrong transforms, parameters, rules and states."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from optlab.base import Codec, Params, PyTree
from optlab.transforms.quantized._boxes import unboxed
from optlab.transforms.quantized._record import codec_difference, read_record
from optlab.transforms.quantized._rules import (
    CodecRule,
    choose,
    field_names,
    is_encoded,
    path_text,
)

__all__ = ["check_found", "check_params", "check_state", "check_transform"]


def check_transform(tx: Any) -> None:
    """Raises unless ``tx`` is a transform."""
    if not (hasattr(tx, "init") and hasattr(tx, "update")):
        raise ValueError(f"tx must be an optax.GradientTransformation, got {tx!r}.")


def check_params(params: Params) -> None:
    """Raises unless all leaves are real floats."""
    for path, leaf in jax.tree.leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"params must be real floats to have quantized states, got {dtype} at "
                f"{path_text(path) or 'the root'}."
            )


def check_found(rule: CodecRule, state: PyTree) -> None:
    """Raises if a field or an expression of a rule is found nowhere in a state."""
    if isinstance(rule, dict):
        known = field_names(state)
        for field in rule:
            if field not in known:
                raise ValueError(
                    f"codec names the field {field!r}, which the state does not have; it has "
                    f"{', '.join(sorted(known)) or 'none'}."
                )
    if isinstance(rule, tuple):
        paths = [path_text(path) for path, _ in jax.tree.leaves_with_path(state)]
        for pattern, _ in rule:
            if paths and not any(map(pattern.search, paths)):
                raise ValueError(
                    f"codec has a rule for {pattern.pattern!r}, which is found in no path of the "
                    f"state, such as {max(paths, key=len)}."
                )


def check_state(rule: CodecRule, state: Any) -> None:
    """Raises unless ``state`` is quantized, in the codecs of a rule.

    Of a traced one only the dtypes of the codes are compared.
    """
    if getattr(state, "_fields", ()) != ("inner", "codecs", "key"):
        kind = type(state).__name__
        raise ValueError(f"state must be as init of the quantized transform gave it, got a {kind}.")
    inner = unboxed(state.inner)
    wanted = {}
    for path, node in jax.tree.leaves_with_path(inner, is_leaf=is_encoded):
        if not is_encoded(node):
            continue
        name, codec = path_text(path), choose(rule, inner, path)
        if codec is None or _code_dtype(codec) != node.code.dtype:
            ours = "float32" if codec is None else codec.name
            raise ValueError(f"state has {name} in another codec than {ours}: requantize it.")
        wanted[name] = codec
    stored = _stored(state.codecs)
    if wanted and stored is not None and (difference := codec_difference(stored, wanted)):
        raise ValueError(f"state has {difference}: requantize it.")


@functools.cache
def _code_dtype(codec: Codec) -> Any:
    x = jax.ShapeDtypeStruct((1, 2), jnp.float32)
    return jax.eval_shape(codec.fit(x.shape).encode, x).code.dtype


def _stored(record: jax.Array) -> dict[str, Codec] | None:
    """What a record says; None if that cannot be known here."""
    if isinstance(record, jax.core.Tracer):
        return None
    if isinstance(record, jax.Array) and not record.is_fully_addressable:
        return None
    try:
        return read_record(record)
    except ValueError:  # a codec that is not one of ours
        return None
