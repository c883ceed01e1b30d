"""Codecs: arrays at rest in few bits, for optimizer states and for messages.

A codec is a frozen, hashable object, static in ``jit``, with ``encode`` and ``decode``: see
:class:`optlab.base.Codec`. Codes keep the array's shape, and a scale belongs to a block of the last
axis, so that codes and scales are sharded as the array is, and no data move.

Which one? ``mild`` and ``wild`` are errors of Adam's step, relative, when both moments are coded:
of blocks whose second moments span a decade or two, and of blocks where they span eight.

===================  =====  =====  =====  ===================================================
codec                bits   mild   wild   for
===================  =====  =====  =====  ===================================================
``power8``           8.13   1.2 %  9.5 %  both moments of any optimizer: the default
``adaptive_power8``  8.19   1.1 %  5.0 %  less error, for a fifth more time in the codec's steps
``flash8``           8.5    1.1 %  32 %   first moments; second ones of few decades
``coat8``            8.75   1.8 %  3.8 %  blocks of many decades; slow, and more bits
``dynamic8``         8.13   1.8 %  9.5 %  checkpoints of bitsandbytes, parity with it and torchao
``float8``           8.13   3.0 %  19 %   parity with torchao's fp8
``float8('e5m2')``   8.13   5.8 %  5.9 %  the same, of more decades
``linear8``          8.13   2.9 %  69 %   messages; not second moments
``per_tensor``       8      10 %   11 %   what blocks are compared with, here of ``dynamic8``
``dynamic4``         4.25                 first moments where memory is all, and with it
``linear4_nozero``   4.25   28 %   82 %   second moments; or
``rank1_linear4``    4      28 %   74 %   second moments of matrices; neither streams nor shards
``mxfp4``            4.25                 arrays with signs, in the form that hardware multiplies
``nvfp4``            4.5                  the same; neither streams nor shards
``bfloat16``         16     0.2 %  0.2 %  moments with a key, for stochastic rounding
``float32``          32     0      0      what is to be left alone
===================  =====  =====  =====  ===================================================
"""

from optlab.codecs._adaptive import adaptive_power8
from optlab.codecs._bitsandbytes import from_bitsandbytes, to_bitsandbytes
from optlab.codecs._coat import coat8
from optlab.codecs._dynamic import dynamic4, dynamic8
from optlab.codecs._flash import flash8
from optlab.codecs._float8 import float8
from optlab.codecs._four import linear4_nozero, rank1_linear4
from optlab.codecs._microscaling import microscaling, mxfp4, nvfp4
from optlab.codecs._per_tensor import per_tensor
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
    "per_tensor",
    "power8",
    "rank1_linear4",
    "spec",
    "stochastic_round",
    "to_bitsandbytes",
]
