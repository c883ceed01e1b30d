"""AmIGO of optlab: fresh minibatches for the inner and the linear steps."""

from benchmarks.benchopt.plugin import Plugin
from optlab import bilevel


class Solver(Plugin):
    """AmIGO of optlab."""

    name = "optlab-AmIGO"
    parameters = Plugin.with_parameters(n_inner_steps=[10])

    def make(self, outer, inner):
        """See Plugin."""
        levels = self.rates(outer=0, inner=0, linear=0)
        return bilevel.amigo(
            outer, inner, inner_steps=self.n_inner_steps, fresh_batches=True, **levels
        )

    def arguments(self, state, draws):
        """See Plugin."""
        inner = draws.starts("inner", 2 * self.n_inner_steps + 1)
        return state, (draws.one("outer").start, inner), {}
