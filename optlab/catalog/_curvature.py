"""Rows of ``optlab.transforms.curvature``."""

from optlab.catalog._method import Method

__all__ = ["ROWS"]

ROWS = (
    Method(
        name="m_fac",
        family="transforms.curvature",
        symbol="optlab.transforms.curvature.m_fac",
        summary="the inverse Fisher matrix of a sliding window of gradients, times the gradient",
        papers=("frantar2021mfac",),
        arguments={"learning_rate": 1e-2, "history": 128, "damping": 0.1, "weight_decay": 0.01},
        variants={"momentum": {"b1": 0.9, "learning_rate": 0.2}},
        state_bytes=4.0 * (128 + 1),
        config="curvature_m_fac_fashion_mnist.py",
    ),
    Method(
        name="mkor",
        family="transforms.curvature",
        symbol="optlab.transforms.curvature.mkor",
        summary="Kronecker factors inverted by rank-one updates, O(d^2) a layer",
        papers=("mozaffari2023mkor",),
        unswept="takes the layers' inputs and output gradients (layer_taps)",
        arguments={"learning_rate": 1e-2},
        config="curvature_mkor_fashion_mnist.py",
    ),
    Method(
        name="mkor_h",
        family="transforms.curvature",
        symbol="optlab.transforms.curvature.mkor_h",
        summary="MKOR that turns first-order once the loss stops gaining",
        papers=("mozaffari2023mkor",),
        unswept="takes the layers' inputs and output gradients (layer_taps), and the loss",
        arguments={"learning_rate": 1e-2},
        config="curvature_mkor_h_fashion_mnist.py",
    ),
)
