"""SABA of optlab: a memory of the values on every minibatch, constant steps."""

from benchmarks.benchopt.plugin import Plugin
from optlab import bilevel


class Solver(Plugin):
    """SABA of optlab."""

    name = "optlab-SABA"

    def make(self, outer, inner):
        """See Plugin."""
        return bilevel.saba(
            outer,
            inner,
            outer_batches=len(self.state_outer_sampler["batch_order"]),
            inner_batches=len(self.state_inner_sampler["batch_order"]),
            **self.rates(outer=0, inner=0, linear=0),
        )

    def arguments(self, state, draws):
        """See Plugin."""
        outer, inner = draws.one("outer"), draws.one("inner")
        indices = {"outer_index": outer.index, "inner_index": inner.index}
        return state, (outer.start, inner.start), indices
