"""SOBA of optlab: steps that fall like the square root."""

from benchmarks.benchopt.plugin import Plugin
from optlab import bilevel


class Solver(Plugin):
    """SOBA of optlab: steps that fall like the square root."""

    name = "optlab-SOBA"

    def make(self, outer, inner):
        """See Plugin."""
        return bilevel.soba(outer, inner, **self.rates(outer=0.5, inner=0.5, linear=0.5))
