"""BOME of optlab, on all data."""

from benchmarks.benchopt.loop import WHOLE, sgd
from benchmarks.benchopt.plugin import Plugin
from optlab import bilevel


class Solver(Plugin):
    """BOME of optlab."""

    name = "optlab-BOME"
    parameters = Plugin.with_parameters(
        batch_size=["full"],
        eval_freq=[1],
        choice_phi=["grad_norm"],
        eta=[0.5],
        n_inner_steps=[10],
    )

    def make(self, outer, inner):
        """See Plugin."""
        return bilevel.bome(
            outer,
            inner,
            value_optimizer=sgd(self.step_size),
            value_steps=self.n_inner_steps,
            barrier=self.eta,
            barrier_of="gradient" if self.choice_phi == "grad_norm" else "value",
            **self.rates(outer=0, inner=0),
        )

    def arguments(self, state, draws):
        """See Plugin."""
        del draws
        return state, (WHOLE, WHOLE), {}
