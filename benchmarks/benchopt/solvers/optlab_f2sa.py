"""F2SA of optlab: the penalty method with a multiplier that grows."""

import jax.numpy as jnp
import numpy as np

from benchmarks.benchopt.loop import sgd
from benchmarks.benchopt.plugin import Plugin
from optlab import bilevel

LONGEST = 1 << 20  # steps for which the multiplier is known


class Solver(Plugin):
    """F2SA of optlab."""

    name = "optlab-F2SA"
    parameters = Plugin.with_parameters(
        step_size=[0.01],
        lmbda0=[1.0],
        delta_lmbda=[0.1],
        n_inner_steps=[10],
    )

    def make(self, outer, inner):
        """See Plugin."""
        growth = self.delta_lmbda / np.arange(1, LONGEST) ** (1 / 7)
        multiplier = jnp.asarray(
            self.lmbda0 + np.append(0.0, np.cumsum(growth)), jnp.result_type(0.0)
        )
        return bilevel.f2sa(
            outer,
            inner,
            multiplier=lambda t: multiplier[t],
            inner_steps=self.n_inner_steps,
            fresh_batches=True,
            pure_optimizer=sgd(self.step_size, 4 / 7, self.n_inner_steps),
            **self.rates(self.n_inner_steps, outer=4 / 7, inner=5 / 7),
        )

    def arguments(self, state, draws):
        """See Plugin. Both y and z see the same minibatches, and x the last of them."""
        batches = (draws.starts(level, self.n_inner_steps) for level in ("outer", "inner"))
        return state, tuple(batches), {}
