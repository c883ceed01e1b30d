"""Preconditioners that follow the curvature: inverse Fisher matrices, whole or by layers.

:func:`m_fac` needs gradients only. :func:`mkor` and :func:`mkor_h` also take the statistics of the
layers, which :func:`layer_taps`, :func:`watch` and :func:`watch_conv` get from the same backward
pass.
"""

from optlab.transforms.curvature._layers import LayerStatistics, layer_taps, watch, watch_conv
from optlab.transforms.curvature._m_fac import ScaleByMFacState, m_fac, scale_by_m_fac
from optlab.transforms.curvature._mkor import (
    KroneckerInverse,
    ScaleByMkorState,
    mkor,
    scale_by_mkor,
)
from optlab.transforms.curvature._mkor_h import UntilFlatState, mkor_h, until_flat

__all__ = [
    "KroneckerInverse",
    "LayerStatistics",
    "ScaleByMFacState",
    "ScaleByMkorState",
    "UntilFlatState",
    "layer_taps",
    "m_fac",
    "mkor",
    "mkor_h",
    "scale_by_m_fac",
    "scale_by_mkor",
    "until_flat",
    "watch",
    "watch_conv",
]
