"""PZOBO of optlab, on all data."""

from benchmarks.benchopt.loop import WHOLE
from benchmarks.benchopt.plugin import Plugin
from optlab import bilevel


class Solver(Plugin):
    """PZOBO of optlab."""

    name = "optlab-PZOBO"
    parameters = Plugin.with_parameters(
        batch_size=["full"],
        eval_freq=[1],
        mu=[0.1],
        n_inner_steps=[10],
        n_gaussian_vectors=[10],
    )

    def make(self, outer, inner):
        """See Plugin."""
        return bilevel.pzobo(
            outer,
            inner,
            inner_steps=self.n_inner_steps,
            mu=self.mu,
            samples=self.n_gaussian_vectors,
            **self.rates(outer=0, inner=0),
        )

    def arguments(self, state, draws):
        """See Plugin."""
        del draws
        return state, (WHOLE, WHOLE), {}
