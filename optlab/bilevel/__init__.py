"""Bilevel solvers: any hypergradient, any direction, any optimizer at either level.

``state = solver.init(key, x, y)``; ``state, info = solver.step(state, outer_batch, inner_batch)``,
for the problem to minimise ``outer(x, y*(x), batch)``, where ``y*(x)`` minimises
``inner(x, y, batch)``. Data are arguments, states are NamedTuples of arrays, and a step runs under
``jit``, ``scan`` and ``vmap``.
"""

from optlab.bilevel._alternating import AlternatingState, alternating
from optlab.bilevel._amigo import AmigoState, amigo
from optlab.bilevel._bo_rep import BoRepState, bo_rep
from optlab.bilevel._bome import BomeState, bome
from optlab.bilevel._bsvrb import BsvrbState, bsvrb
from optlab.bilevel._common import BilevelInfo
from optlab.bilevel._directions import Direction, msvr, plain, saga, spider, storm
from optlab.bilevel._episodic import EpisodicInfo, EpisodicState, episodic
from optlab.bilevel._f2sa import f2sa
from optlab.bilevel._fsla import fsla
from optlab.bilevel._imaml import imaml
from optlab.bilevel._lv_hba import LvHbaState, lv_hba
from optlab.bilevel._maml import maml
from optlab.bilevel._mrbo import mrbo
from optlab.bilevel._penalty import PenaltyState, penalty
from optlab.bilevel._pzobo import PzoboState, pzobo
from optlab.bilevel._saba import saba
from optlab.bilevel._soba import SobaState, soba
from optlab.bilevel._srba import srba
from optlab.bilevel._stn import StnState, stn
from optlab.bilevel._stocbio import stocbio
from optlab.bilevel._sustain import sustain
from optlab.bilevel._ttsa import ttsa
from optlab.bilevel._vpbgd import VpbgdState, vpbgd
from optlab.bilevel._vrbo import VrboState, vrbo

__all__ = [
    "AlternatingState",
    "AmigoState",
    "BilevelInfo",
    "BoRepState",
    "BomeState",
    "BsvrbState",
    "Direction",
    "EpisodicInfo",
    "EpisodicState",
    "LvHbaState",
    "PenaltyState",
    "PzoboState",
    "SobaState",
    "StnState",
    "VpbgdState",
    "VrboState",
    "alternating",
    "amigo",
    "bo_rep",
    "bome",
    "bsvrb",
    "episodic",
    "f2sa",
    "fsla",
    "imaml",
    "lv_hba",
    "maml",
    "mrbo",
    "msvr",
    "penalty",
    "plain",
    "pzobo",
    "saba",
    "saga",
    "soba",
    "spider",
    "srba",
    "stn",
    "stocbio",
    "storm",
    "sustain",
    "ttsa",
    "vpbgd",
    "vrbo",
]
