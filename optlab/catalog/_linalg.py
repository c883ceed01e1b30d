"""Rows of ``optlab.linalg``."""

from optlab.catalog._method import Method

__all__ = ["ROWS"]


def _row(name: str, summary: str, *papers: str) -> Method:
    return Method(
        name=name,
        family="linalg",
        symbol=f"optlab.linalg.{name}",
        summary=summary,
        papers=papers,
        unswept="a linear solver for sequences of systems",
    )


ROWS = (
    _row("deep_conjugate_direction", "directions that a network proposes", "kaneda2023dcd"),
    _row("krylov_recycling", "GCRO-DR: subspaces go from system to system", "wang2024recycling"),
    _row("tuned_sor", "over-relaxation whose omega a bandit learns", "khodak2024relax"),
)
