"""optlab: optimizer and bilevel research methods for JAX, as composable transformations.

The ready optimizers are here (``optlab.lion_k(1e-4)``), the families are modules
(``optlab.transforms.sign``), and ``python -m optlab.catalog`` lists all methods.
``optlab.training`` needs flax and is imported when it is asked for.
"""

import importlib

from optlab import bilevel, codecs, hypergrad, implicit, linalg, problems, schedules, transforms
from optlab._version import __version__ as __version__
from optlab.transforms.adaptive import exadam, lamb, lars, n_pg_igt, spam, stable_spam
from optlab.transforms.curvature import m_fac
from optlab.transforms.learning_rate_free import (
    dadapt_adagrad,
    dadapt_adam,
    dadapt_lion,
    dadapt_sgd,
    dog,
    ldog,
    mechanic,
    prodigy,
)
from optlab.transforms.low_rank import dct_adamw, fira, galore, natural_galore, trion
from optlab.transforms.matrix import auon, hybrid_auon, muon
from optlab.transforms.quantized import (
    adagrad8bit,
    adam8bit,
    adamw4bit,
    adamw8bit,
    adamw_coat,
    adamw_fp8,
    ademamix8bit,
    lamb8bit,
    lars8bit,
    lion8bit,
    lion_k8bit,
    muon8bit,
    rmsprop8bit,
    sgd8bit,
    step,
)
from optlab.transforms.sign import lion_k, normalized_momentum, signum

__all__ = [
    "adagrad8bit",
    "adam8bit",
    "adamw4bit",
    "adamw8bit",
    "adamw_coat",
    "adamw_fp8",
    "ademamix8bit",
    "auon",
    "bilevel",
    "codecs",
    "dadapt_adagrad",
    "dadapt_adam",
    "dadapt_lion",
    "dadapt_sgd",
    "dct_adamw",
    "dog",
    "exadam",
    "fira",
    "galore",
    "hybrid_auon",
    "hypergrad",
    "implicit",
    "lamb",
    "lamb8bit",
    "lars",
    "lars8bit",
    "ldog",
    "linalg",
    "lion8bit",
    "lion_k",
    "lion_k8bit",
    "m_fac",
    "mechanic",
    "muon",
    "muon8bit",
    "n_pg_igt",
    "natural_galore",
    "normalized_momentum",
    "problems",
    "prodigy",
    "rmsprop8bit",
    "schedules",
    "sgd8bit",
    "signum",
    "spam",
    "stable_spam",
    "step",
    "training",
    "transforms",
    "trion",
]


def __getattr__(name):
    if name in ("catalog", "training"):
        return importlib.import_module(f"optlab.{name}")
    raise AttributeError(f"module 'optlab' has no attribute {name!r}")
