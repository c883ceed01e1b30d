"""TTSA of optlab: one inner step and one random Neumann product."""

import jax

from benchmarks.benchopt.plugin import RandomTerm
from optlab import bilevel


class Solver(RandomTerm):
    """TTSA of optlab."""

    name = "optlab-TTSA"

    def first_key(self):
        """See RandomTerm."""
        return jax.random.PRNGKey(self.random_state)

    def make(self, outer, inner):
        """See Plugin."""
        levels = self.rates(outer=0.6, inner=0.4)
        return bilevel.alternating(outer, inner, estimator=self.estimator(), **levels)
