"""SUSTAIN of optlab: recursive momentum at both levels, one random Neumann product."""

from benchmarks.benchopt.loop import falling
from benchmarks.benchopt.plugin import RandomTerm, from_the_origin
from optlab import bilevel


class Solver(RandomTerm):
    """SUSTAIN of optlab."""

    name = "optlab-SUSTAIN"
    parameters = RandomTerm.with_parameters(eta=[0.5])

    def make(self, outer, inner):
        """See Plugin."""
        weight = falling(self.eta, 2 / 3)
        momentum = bilevel.storm(lambda t: weight(t - 1))  # see from_the_origin
        return bilevel.alternating(
            outer,
            inner,
            estimator=self.estimator(),
            outer_direction=momentum,
            inner_direction=momentum,
            simultaneous=True,
            **self.rates(outer=1 / 3, inner=1 / 3),
        )

    def start(self, state):
        """See Plugin."""
        return from_the_origin(state)
