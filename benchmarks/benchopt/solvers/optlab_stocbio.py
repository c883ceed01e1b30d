"""StocBiO of optlab: fresh minibatches for the inner steps and for the Neumann series."""

from benchmarks.benchopt.plugin import Plugin
from optlab import bilevel, hypergrad


class Solver(Plugin):
    """StocBiO of optlab."""

    name = "optlab-StocBiO"
    parameters = Plugin.with_parameters(n_inner_steps=[10], n_shia_steps=[10])

    def make(self, outer, inner):
        """See Plugin."""
        return bilevel.alternating(
            outer,
            inner,
            estimator=hypergrad.neumann(
                self.n_shia_steps, self.step_size, fresh_batches=True, tolerance=None
            ),
            inner_steps=self.n_inner_steps,
            fresh_batches=True,
            **self.rates(outer=0, inner=0),
        )

    def arguments(self, state, draws):
        """See Plugin."""
        inner = draws.starts("inner", self.n_inner_steps)
        series = draws.starts("inner", self.n_shia_steps + 1)
        return state, (draws.one("outer").start, inner), {"estimate_batch": series}
