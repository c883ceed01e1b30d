"""Codecs by name, and as plain data for configs and checkpoints."""

import ast
import dataclasses
import inspect
from typing import Any

from optlab.base import Codec
from optlab.codecs._adaptive import adaptive_power8
from optlab.codecs._coat import coat8
from optlab.codecs._dynamic import dynamic4, dynamic8
from optlab.codecs._flash import flash8
from optlab.codecs._float8 import float8
from optlab.codecs._four import linear4_nozero, rank1_linear4
from optlab.codecs._microscaling import microscaling, mxfp4, nvfp4
from optlab.codecs._per_tensor import per_tensor
from optlab.codecs._power import linear8, power8
from optlab.codecs._rounding import bfloat16, float32

__all__ = ["from_spec", "get", "spec"]

_FACTORIES = {
    f.__name__: f
    for f in (
        adaptive_power8,
        bfloat16,
        coat8,
        dynamic4,
        dynamic8,
        flash8,
        float32,
        float8,
        linear4_nozero,
        linear8,
        microscaling,
        mxfp4,
        nvfp4,
        per_tensor,
        power8,
        rank1_linear4,
    )
}


def get(codec: Codec | str, **options: Any) -> Codec:
    """Reads a codec from its text, as configs hold it.

    Args:
        codec: a name such as ``"power8"``, or a call with literal arguments such as
            ``"power8(block=128, signed=False)"``; a codec is given back.
        **options: further arguments of the codec's function.

    Returns:
        The codec.

    Raises:
        ValueError: if it is neither, or the text is not such a call, its name is unknown, or an
            option is.

    >>> get("power8(block=128)", signed=False).p
    4
    """
    if not isinstance(codec, str):
        if not hasattr(codec, "encode"):
            raise ValueError(f"codec must be a codec or its text, got {codec!r}.")
        if options:
            raise ValueError(f"options are for a codec's name, got {options} with {codec!r}.")
        return codec
    try:
        node = ast.parse(codec, mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
        factory = _FACTORIES[ast.unparse(call.func)]
        args = [ast.literal_eval(a) for a in call.args]
        options = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords} | options
        inspect.signature(factory).bind(*args, **options)
    except (KeyError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(
            "codec must be a codec or the text of a call with literal arguments, such as "
            f"'power8(block=128)', of one of {', '.join(sorted(_FACTORIES))}; got {codec!r}"
            + (f" with {options}." if options else ".")
        ) from error
    return factory(*args, **options)


def spec(codec: Codec) -> dict[str, Any]:
    """Gives a codec as plain data, to be kept as JSON beside a checkpoint.

    Args:
        codec: one of this module's.

    Returns:
        Its name and fields: strings, numbers and booleans, which :func:`from_spec` reads.

    >>> spec(power8(block=64))["name"], spec(power8(block=64))["block"]
    ('power8', 64)
    """
    return {"name": codec.name, **dataclasses.asdict(codec)}


def from_spec(data: dict[str, Any]) -> Codec:
    """Undoes :func:`spec`.

    Args:
        data: what :func:`spec` gave.

    Returns:
        The codec, equal to the one that was given to :func:`spec`.

    Raises:
        ValueError: if the name or a field is unknown.

    >>> from_spec({"name": "power8", "block": 64}) == power8(block=64)
    True
    """
    options = {key: value for key, value in data.items() if key != "name"}
    if "name" not in data:
        raise ValueError(f"data must have the name of a codec, got {data}.")
    return get(str(data["name"]), **options)
