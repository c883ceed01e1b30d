"""VRBO of optlab: differences along the path at both levels, from a full pass a period."""

from benchmarks.benchopt.plugin import Periodic
from optlab import bilevel


class Solver(Periodic):
    """VRBO of optlab."""

    name = "optlab-VRBO"
    parameters = Periodic.with_parameters(
        period_frac=[128],
        n_inner_steps=[10],
        n_shia_steps=[10],
        paired=[True],
    )

    def make(self, outer, inner):
        """See Plugin."""
        return bilevel.vrbo(
            outer,
            inner,
            terms=self.n_shia_steps,
            neumann_step=self.step_size,
            inner_steps=self.n_inner_steps,
            fresh_batches=True,
            paired=self.paired,
            **self.rates(outer=0, inner=0),
        )

    def arguments(self, state, draws):
        """See Plugin."""
        batches = (draws.starts(level, self.n_inner_steps + 1) for level in ("outer", "inner"))
        return state, tuple(batches), {}
