"""Adam and momentum with safeguards: against spikes, layer by layer, or from look-ahead points.

:func:`tract_dense` and :func:`tract_conv` are no transformations but gradient rules of a first
layer; any optimizer may follow them. :func:`sso` is a solver, and takes a model and its loss apart.
"""

from optlab.transforms.adaptive._exadam import ScaleByExadamState, exadam, scale_by_exadam
from optlab.transforms.adaptive._lamb import lamb
from optlab.transforms.adaptive._lars import lars
from optlab.transforms.adaptive._n_harpg import NHarpgState, n_harpg, n_harpg_query
from optlab.transforms.adaptive._n_pg_igt import NPgIgtState, n_pg_igt, n_pg_igt_lookahead
from optlab.transforms.adaptive._percentile_clip import PercentileClipState, percentile_clip
from optlab.transforms.adaptive._spam import ScaleBySpamState, scale_by_spam, spam
from optlab.transforms.adaptive._sso import (
    ScaleByAdagradNormState,
    SsoInfo,
    SsoState,
    armijo_descent,
    scale_by_adagrad_norm,
    sso,
)
from optlab.transforms.adaptive._stable_spam import (
    ScaleByStableSpamState,
    scale_by_stable_spam,
    stable_spam,
)
from optlab.transforms.adaptive._tract import tract_conv, tract_dense

__all__ = [
    "NHarpgState",
    "NPgIgtState",
    "PercentileClipState",
    "ScaleByAdagradNormState",
    "ScaleByExadamState",
    "ScaleBySpamState",
    "ScaleByStableSpamState",
    "SsoInfo",
    "SsoState",
    "armijo_descent",
    "exadam",
    "lamb",
    "lars",
    "n_harpg",
    "n_harpg_query",
    "n_pg_igt",
    "n_pg_igt_lookahead",
    "percentile_clip",
    "scale_by_adagrad_norm",
    "scale_by_exadam",
    "scale_by_spam",
    "scale_by_stable_spam",
    "spam",
    "sso",
    "stable_spam",
    "tract_conv",
    "tract_dense",
]
