"""MRBO of optlab: recursive momentum at both levels, fresh minibatches for the Neumann series."""

from benchmarks.benchopt.loop import falling
from benchmarks.benchopt.plugin import Plugin, from_the_origin
from optlab import bilevel, hypergrad


class Solver(Plugin):
    """MRBO of optlab."""

    name = "optlab-MRBO"
    parameters = Plugin.with_parameters(n_shia_steps=[10], eta=[0.5])

    def make(self, outer, inner):
        """See Plugin."""
        weight = falling(self.eta, 2 / 3)
        momentum = bilevel.storm(lambda t: weight(t - 1))  # see from_the_origin
        return bilevel.alternating(
            outer,
            inner,
            estimator=hypergrad.neumann(
                self.n_shia_steps, self.step_size, fresh_batches=True, tolerance=None
            ),
            outer_direction=momentum,
            inner_direction=momentum,
            simultaneous=True,
            **self.rates(outer=1 / 3, inner=1 / 3),
        )

    def start(self, state):
        """See Plugin."""
        return from_the_origin(state)

    def arguments(self, state, draws):
        """See Plugin. The cross derivative is taken on the inner step's minibatch."""
        inner, outer = draws.one("inner").start, draws.one("outer").start
        series = draws.starts_up_to("inner", self.n_shia_steps, self.n_shia_steps + 1)
        return state, (outer, inner), {"estimate_batch": series.at[-1].set(inner)}
