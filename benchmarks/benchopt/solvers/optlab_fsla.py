"""FSLA of optlab: the weight of the momentum falls like the steps."""

from benchmarks.benchopt.loop import falling
from benchmarks.benchopt.plugin import Plugin
from optlab import bilevel


class Solver(Plugin):
    """FSLA of optlab: the weight of the momentum falls like the steps."""

    name = "optlab-FSLA"

    def make(self, outer, inner):
        """See Plugin."""
        weight = falling(self.step_size, 0.5)
        levels = self.rates(outer=0.5, inner=0.5, linear=0.5)
        return bilevel.fsla(outer, inner, weight=weight, **levels)
