"""SRBA of optlab: a full pass at the start of each period, differences in between."""

from benchmarks.benchopt.loop import WHOLE
from benchmarks.benchopt.plugin import Periodic
from optlab import bilevel


class Solver(Periodic):
    """SRBA of optlab."""

    name = "optlab-SRBA"

    def make(self, outer, inner):
        """See Plugin."""
        return bilevel.srba(outer, inner, **self.rates(outer=0, inner=0, linear=0))

    def full_step(self, step, carry):
        """See Periodic. Theirs draws no minibatch in a full step."""
        state, samplers = carry
        full = {"outer_full": WHOLE, "inner_full": WHOLE}
        return self.solver().step(state, WHOLE, WHOLE, **full)[0], samplers
