"""Codecs: arrays at rest in few bits, for optimizer states and for messages.

A codec is a frozen, hashable object, static in ``jit``, with ``encode`` and ``decode``: see
:class:`optlab.base.Codec`. Codes keep the array's shape, and a scale belongs to a block of the last
axis, so that codes and scales are sharded as the array is.

Which one:

================  ======  ===========================================================
codec             bits    for
================  ======  ===========================================================
`power8`          8.13    both moments of any optimizer: the default
`dynamic8`        8.13    parity with bitsandbytes and torchao
`flash8`          8.5     less error in small groups, for half a bit more
`coat8`           8.75    second moments of seven decades and more in one block
`float8`          8.13    parity with torchao's fp8; twice the error of `power8`
`linear8`         8.13    messages; never second moments
`dynamic4`        4.25    first moments, where memory is all
`linear4_nozero`  4.25    second moments, where memory is all
`rank1_linear4`   4       the same for matrices; cannot be streamed
`mxfp4`           4.25    tensors that hardware multiplies in this format
`nvfp4`           4.5     the same; cannot be streamed
`bfloat16`        16      moments with a key, so that rounding is stochastic
`float32`         32      fields to be left alone
================  ======  ===========================================================
"""

from optlab.codecs._adaptive import adaptive_power8
from optlab.codecs._bitsandbytes import from_bitsandbytes, to_bitsandbytes
from optlab.codecs._coat import coat8
from optlab.codecs._dynamic import dynamic4, dynamic8
from optlab.codecs._flash import flash8
from optlab.codecs._float8 import float8
from optlab.codecs._four import linear4_nozero, rank1_linear4
from optlab.codecs._microscaling import microscaling, mxfp4, nvfp4
from optlab.codecs._power import linear8, power8
from optlab.codecs._registry import from_spec, get, spec
from optlab.codecs._rounding import bfloat16, float32, stochastic_round

__all__ = [
    "adaptive_power8",
    "bfloat16",
    "coat8",
    "dynamic4",
    "dynamic8",
    "flash8",
    "float8",
    "float32",
    "from_bitsandbytes",
    "from_spec",
    "get",
    "linear4_nozero",
    "linear8",
    "microscaling",
    "mxfp4",
    "nvfp4",
    "power8",
    "rank1_linear4",
    "spec",
    "stochastic_round",
    "to_bitsandbytes",
]
