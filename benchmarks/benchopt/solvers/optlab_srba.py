"""SRBA of optlab: a full pass at the start of each period, differences in between."""

from benchmarks.benchopt.loop import WHOLE
from benchmarks.benchopt.plugin import Periodic
from optlab import bilevel


class Solver(Periodic):
    """SRBA of optlab."""

    name = "optlab-SRBA"
    parameters = Periodic.with_parameters(paired=[True])

    def make(self, outer, inner):
        """See Plugin."""
        levels = self.rates(outer=0, inner=0, linear=0)
        return bilevel.srba(outer, inner, paired=self.paired, **levels)

    def full_step(self, step, carry):
        """See Periodic. Theirs draws no minibatch in a full step."""
        state, samplers = carry
        full = {"outer_full": WHOLE, "inner_full": WHOLE}
        return self.solver().step(state, WHOLE, WHOLE, **full)[0], samplers
