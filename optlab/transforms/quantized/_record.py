"""What a state says about its codecs: kept in it, so that every checkpoint has it."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from optlab import codecs
from optlab.base import Codec

__all__ = ["codec_difference", "make_record", "read_record"]


def make_record(chosen: dict[str, Codec]) -> jax.Array:
    """Writes down codecs by path: JSON as bytes, shape ``(n,)``, dtype uint8."""
    specs: list[dict] = []
    leaves = {}
    for path, codec in sorted(chosen.items()):
        spec = codecs.spec(codec)
        if spec not in specs:
            specs.append(spec)
        leaves[path] = specs.index(spec)
    text = json.dumps({"codecs": specs, "leaves": leaves}, separators=(",", ":"))
    return jnp.asarray(np.frombuffer(text.encode(), np.uint8).copy())


def read_record(record: jax.Array) -> dict[str, Codec]:
    """Undoes :func:`make_record`."""
    words = np.asarray(record)
    data = json.loads(words.reshape(-1, words.shape[-1])[0].tobytes())  # of lanes, the first's
    found = [codecs.from_spec(spec) for spec in data["codecs"]]
    return {path: found[i] for path, i in data["leaves"].items()}


def codec_difference(there: dict[str, Codec], here: dict[str, Codec]) -> str:
    """Says of the first leaf that is coded in different ways how it is; "" if there is none."""
    for path in sorted(there.keys() | here.keys()):
        if there.get(path) != here.get(path):
            return f"{path} in {_text(there.get(path))}, not in {_text(here.get(path))}"
    return ""


def _text(codec: Codec | None) -> str:
    if codec is None:
        return "float32"
    usual = codecs.spec(codecs.get(codec.name))
    options = [f"{k}={v!r}" for k, v in codecs.spec(codec).items() if v != usual[k]]
    return f"{codec.name}({', '.join(options)})" if options else codec.name
