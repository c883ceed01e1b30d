"""BSA of optlab: inner steps on fresh minibatches, then one random Neumann product."""

import functools

import jax

from benchmarks.benchopt.loop import Draws
from benchmarks.benchopt.plugin import RandomTerm
from optlab import bilevel


class Solver(RandomTerm):
    """BSA of optlab.

    Theirs steps in x first and then in y, optlab's the other way round: one step in x is taken
    ahead, and the x before the last step is the one to report.
    """

    name = "optlab-BSA"
    parameters = RandomTerm.with_parameters(n_inner_steps=[10])

    def make(self, outer, inner, inner_steps=None):
        """See Plugin."""
        return bilevel.alternating(
            outer,
            inner,
            estimator=self.estimator(),
            inner_steps=self.n_inner_steps if inner_steps is None else inner_steps,
            fresh_batches=True,
            **self.rates(self.n_inner_steps, outer=0.5, inner=0.5),
        )

    def arguments(self, state, draws, inner_steps=None):
        """See Plugin."""
        steps = self.n_inner_steps if inner_steps is None else inner_steps
        inner, outer = draws.starts_up_to("inner", steps, max(steps, 1)), draws.one("outer").start
        state, terms = self.draw_terms(state, draws)
        terms = terms.at[-1].set(draws.one("inner").start)
        return state, (outer, inner), {"estimate_batch": terms}

    def get_step(self, inner_sampler, outer_sampler):
        """See Plugin; the state in the carry is ``(x before, state)``."""
        step = super().get_step(inner_sampler, outer_sampler)
        samplers = {"inner": inner_sampler, "outer": outer_sampler}

        @jax.jit
        def ahead(state, states):
            draws = Draws(samplers, states)
            state, batches, options = self.arguments(state, draws, inner_steps=0)
            solver = self.solver(functools.partial(self.make, inner_steps=0))
            return solver.step(state, *batches, **options)[0], draws.states

        def shifted(carry, options):
            (_, state), states = carry
            (new, states), _ = step((state, states), options)
            return ((state.x, new), states), None

        self.ahead = ahead
        return shifted

    def init(self):
        """See Plugin."""
        state, states = super().init()
        new, states = self.ahead(state, states)
        return (state.x, new), states

    def variables(self, state):
        """See Plugin."""
        before, state = state
        return state.y, before
