"""Rows of ``optlab.bilevel``."""

from optlab.catalog._method import Method

__all__ = ["ROWS"]


_SOLVER = "a solver: init(key, x, y) and step(state, outer_batch, inner_batch)"


def _row(
    name: str,
    summary: str,
    *papers: str,
    unswept: str = _SOLVER,
    config: str | None = None,
    notebook: str | None = None,
) -> Method:
    return Method(
        name=name,
        family="bilevel",
        symbol=f"optlab.bilevel.{name}",
        summary=summary,
        papers=papers,
        unswept=unswept,
        config=config,
        notebook=notebook,
    )


ROWS = (
    _row(
        "alternating",
        "inner steps, then an outer one along any hypergradient",
        "pedregosa2016hoag",
        config="bilevel_hyper_cleaning_fashion_mnist.py:aid",
        notebook="bilevel.ipynb",
    ),
    _row(
        "amigo",
        "warm-started inner and linear steps, then an outer one",
        "arbel2022amigo",
        config="bilevel_hyper_cleaning_fashion_mnist.py:amigo",
        notebook="bilevel.ipynb",
    ),
    _row(
        "bo_rep",
        "normalised outer momentum, periodic inner updates",
        "hao2024borep",
        config="bilevel_hyper_representation_sst2.py",
    ),
    _row("bome", "first-order, the inner problem as a dynamic barrier", "ye2022bome"),
    _row("bsvrb", "many inner problems, a few blocks a step", "hu2023bsvrb"),
    _row("f2sa", "first-order, with a multiplier that grows", "kwon2023f2sa"),
    _row("fsla", "one loop with recursive momentum of the hypergradient", "li2022fsla"),
    _row(
        "imaml",
        "few-shot learning by implicit gradients: MAML whose steps need not be kept",
        "rajeswaran2019imaml",
        config="bilevel_few_shot_omniglot.py:imaml",
    ),
    _row("lv_hba", "constrained inner problems without second derivatives", "yao2024lvhba"),
    _row(
        "maml",
        "an initialisation from which a few steps learn a task",
        "finn2017maml",
        config="bilevel_few_shot_omniglot.py",
    ),
    _row("mrbo", "recursive momentum at both levels, with a Neumann series", "yang2021mrbo"),
    _row(
        "msvr",
        "a direction: estimates of many blocks, a few drawn a step",
        "jiang2022msvr",
        unswept="a direction: init(like, point) and estimate(oracle, point, batch, state)",
    ),
    _row(
        "penalty",
        "the penalised value gap, in two loops or one",
        "kwon2024penalty",
        notebook="bilevel.ipynb",
    ),
    _row("pzobo", "the response from runs at perturbed x, no Hessians", "sow2022pzobo"),
    _row(
        "saba",
        "one loop with a memory of every batch",
        "dagreou2022soba",
        config="bilevel_hyper_cleaning_fashion_mnist.py:saba",
        notebook="bilevel.ipynb",
    ),
    _row(
        "soba",
        "one loop in which x, y and the linear system move together",
        "dagreou2022soba",
        config="bilevel_hyper_cleaning_fashion_mnist.py",
        notebook="bilevel.ipynb",
    ),
    _row("srba", "one loop that follows differences from a full pass", "dagreou2024srba"),
    _row(
        "stn",
        "a network that learns to answer its hyperparameters tunes them as it trains",
        "mackay2019stn",
        config="bilevel_stn_fashion_mnist.py",
        notebook="stn.ipynb",
    ),
    _row(
        "stocbio",
        "stochastic inner steps, then a Neumann series",
        "ji2021stocbio",
        config="bilevel_hyper_cleaning_fashion_mnist.py:stocbio",
        notebook="bilevel.ipynb",
    ),
    _row("sustain", "momentum at both levels, one sampled Neumann term", "khanduri2021sustain"),
    _row("ttsa", "two time scales, one sampled Neumann term (BSA)", "hong2023ttsa"),
    _row("vpbgd", "one descent in x and y, penalised by the value gap", "shen2023vpbgd"),
    _row("vrbo", "differences along the path at both levels, full passes", "yang2021mrbo"),
)
