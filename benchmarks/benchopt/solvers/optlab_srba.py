"""SRBA of optlab: a full pass at the start of each period, differences in between."""

import jax.numpy as jnp

from benchmarks.benchopt.loop import WHOLE, Part
from benchmarks.benchopt.plugin import Periodic
from optlab import bilevel


class Solver(Periodic):
    """SRBA of optlab."""

    name = "optlab-SRBA"
    parameters = Periodic.with_parameters(paired=[True], full_in_batches=[True])

    def make(self, outer, inner):
        """See Plugin."""
        levels = self.rates(outer=0, inner=0, linear=0)
        options = {"paired": self.paired, "full_in_batches": self.full_in_batches}
        return bilevel.srba(outer, inner, **options, **levels)

    def full_step(self, step, carry):
        """See Periodic. Theirs draws no minibatch in a full step."""
        state, samplers = carry
        every = Part(jnp.arange(self.parts())) if self.full_in_batches else WHOLE
        full = {"outer_full": every, "inner_full": every}
        return self.solver().step(state, WHOLE, WHOLE, **full)[0], samplers
