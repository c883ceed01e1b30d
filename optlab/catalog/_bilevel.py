"""Rows of ``optlab.bilevel``."""

from optlab.catalog._method import Method

__all__ = ["ROWS"]


def _row(name: str, summary: str, *papers: str) -> Method:
    return Method(
        name=name,
        family="bilevel",
        symbol=f"optlab.bilevel.{name}",
        summary=summary,
        papers=papers,
        unswept="a solver: init(key, x, y) and step(state, outer_batch, inner_batch)",
    )


ROWS = (
    _row(
        "alternating", "inner steps, then an outer one along any hypergradient", "pedregosa2016hoag"
    ),
    _row("amigo", "warm-started inner and linear steps, then an outer one", "arbel2022amigo"),
    _row("bo_rep", "normalised outer momentum, periodic inner updates", "hao2024borep"),
    _row("bome", "first-order, the inner problem as a dynamic barrier", "ye2022bome"),
    _row("bsvrb", "many inner problems, a few blocks a step", "hu2023bsvrb"),
    _row("f2sa", "first-order, with a multiplier that grows", "kwon2023f2sa"),
    _row("fsla", "one loop with recursive momentum of the hypergradient", "li2022fsla"),
    _row("lv_hba", "constrained inner problems without second derivatives", "yao2024lvhba"),
    _row("mrbo", "recursive momentum at both levels, with a Neumann series", "yang2021mrbo"),
    _row("penalty", "the penalised value gap, in two loops or one", "kwon2024penalty"),
    _row("saba", "one loop with a memory of every batch", "dagreou2022soba"),
    _row("soba", "one loop in which x, y and the linear system move together", "dagreou2022soba"),
    _row("srba", "one loop that follows differences from a full pass", "dagreou2024srba"),
    _row("stocbio", "stochastic inner steps, then a Neumann series", "ji2021stocbio"),
    _row("sustain", "momentum at both levels, one sampled Neumann term", "khanduri2021sustain"),
    _row("ttsa", "two time scales, one sampled Neumann term (BSA)", "hong2023ttsa"),
    _row("vpbgd", "one descent in x and y, penalised by the value gap", "shen2023vpbgd"),
)
