"""Rows of ``optlab.hypergrad``; its ``penalty`` is the method of ``optlab.bilevel.penalty``."""

from optlab.catalog._method import Method

__all__ = ["ROWS"]


def _row(name: str, summary: str, *papers: str) -> Method:
    return Method(
        name=name,
        family="hypergrad",
        symbol=f"optlab.hypergrad.{name}",
        summary=summary,
        papers=papers,
        unswept="an estimator: estimate(outer, inner, x, y, outer_batch, inner_batch)",
    )


ROWS = (
    _row("best_response", "a learned answer of the inner solution to x", "mackay2019stn"),
    _row("cg", "implicit differentiation with conjugate gradients", "pedregosa2016hoag"),
    _row("finite_difference", "one step's derivative by two gradients (DARTS)", "liu2019darts"),
    _row("fixed_point", "the adjoint of any contraction, iterated", "grazzi2020iteration"),
    _row("identity", "the Hessian taken for the identity", "luketina2016scalable"),
    _row("neumann", "the inverse Hessian as a series, whole or sampled", "lorraine2020millions"),
    _row("nystrom", "the inverse of a low-rank sketch of the Hessian", "hataya2023nystrom"),
    _row("one_step", "the derivative of one gradient step", "bolte2023onestep"),
    _row("persistent_evolution", "evolution by windows, without bias (PES)", "vicol2021pes"),
    _row("unrolled", "the derivative of the inner optimizer's steps", "franceschi2017forward"),
)
