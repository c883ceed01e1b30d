"""An optlab solver as a solver of benchopt/benchmark_bilevel."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import optax
from benchmark_utils.stochastic_jax_solver import StochasticJaxSolver

from benchmarks.benchopt.loop import (
    WHOLE,
    Draws,
    count_of_parts,
    draws_of_terms,
    epochs,
    objective,
    periodic_epochs,
    sgd,
    stepper,
)
from optlab.base import Solver as OptlabSolver
from optlab.hypergrad import neumann

__all__ = ["Periodic", "Plugin", "RandomTerm", "from_the_origin"]


def from_the_origin(state: Any) -> Any:
    """Lets recursive momentum begin as theirs does: as if a first step had been at the origin.

    With a direction of zero there; the count of what is remembered then is one ahead of the steps.
    """

    def moved(memory):
        return memory._replace(count=memory.count + 1, point=optax.tree.zeros_like(memory.point))

    return state._replace(
        outer_direction=moved(state.outer_direction), inner_direction=moved(state.inner_direction)
    )


class Plugin(StochasticJaxSolver):
    """Runs an optlab solver on the benchmark's objectives, samplers and step sizes.

    A solver file names the method in :meth:`make` and, where it takes more than one minibatch of
    each objective, says in :meth:`arguments` what it draws.
    """

    parameters: ClassVar = {
        "step_size": [0.1],
        "outer_ratio": [1.0],
        "batch_size": [64],
        **StochasticJaxSolver.parameters,
    }

    @classmethod
    def with_parameters(cls, **own: list) -> dict:
        """The parameters of this class and more; the first value of a list is the default."""
        return {**cls.parameters, **own}

    @abstractmethod
    def make(self, outer, inner) -> OptlabSolver:
        """Gives the solver of ``outer(x, y, batch)`` and ``inner(x, y, batch)``."""

    def solver(self, make: Callable | None = None) -> OptlabSolver:
        """Gives the solver of the benchmark's objectives; a batch is where it starts, or WHOLE."""
        make = make or self.make
        parts = self.parts()
        return make(
            objective(self.f_outer, self.n_outer_samples, parts),
            objective(self.f_inner, self.n_inner_samples, parts),
        )

    def parts(self) -> int:
        """Gives the number of parts in which all data can be taken."""
        return count_of_parts((self.n_outer_samples, self.n_inner_samples), self.batch_size_inner)

    def start(self, state: Any) -> Any:
        """Gives the state to begin with, where that is not the solver's own."""
        return state

    def arguments(self, state: Any, draws: Draws) -> tuple[Any, tuple, dict]:
        """Gives the state, the two batches and the options of the next step."""
        return state, (draws.one("outer").start, draws.one("inner").start), {}

    def rates(self, updates: int = 1, **exponents: float) -> dict:
        """Plain steps for the named levels, that fall with these exponents.

        Args:
            updates: of the inner variable in one step.
            **exponents: by level; zero is a constant size.

        Returns:
            The optimizers, as the solvers take them.
        """
        found = {"outer_optimizer": sgd(self.step_size / self.outer_ratio, exponents.pop("outer"))}
        for level, exponent in exponents.items():
            found[f"{level}_optimizer"] = sgd(self.step_size, exponent, updates)
        return found

    def init(self) -> tuple:
        """Gives the carry of :meth:`run`: the state, and the samplers' states by level."""
        self.inner_var, self.outer_var = self.inner_var0, self.outer_var0  # what is reported first
        solver = self.solver()
        key = jax.random.key(self.random_state)
        state = self.start(solver.init(key, self.outer_var0, self.inner_var0))
        samplers = {"inner": self.state_inner_sampler, "outer": self.state_outer_sampler}
        return state, samplers

    def get_step(self, inner_sampler, outer_sampler):
        """Gives the step of a scan, see ``stepper``."""
        samplers = {"inner": inner_sampler, "outer": outer_sampler}
        return stepper(self.solver(), samplers, self.arguments)

    def get_one_epoch_jitted(self, inner_sampler, outer_sampler):
        """Gives ``epoch(carry, length) -> carry``."""
        return epochs(self.get_step(inner_sampler, outer_sampler))

    def run(self, callback):
        """Steps on while the callback says so."""
        carry = self.init()
        while callback():
            carry = self.one_epoch(carry, self.eval_freq)
            self.inner_var, self.outer_var = self.variables(carry[0])

    def variables(self, state):
        """The inner and the outer variable."""
        return state.y, state.x


class RandomTerm(Plugin):
    """A method that draws the length of a Neumann product, from the keys that theirs takes."""

    parameters: ClassVar = {**Plugin.parameters, "n_hia_steps": [10]}

    def first_key(self):
        """Gives the key of the first draw."""
        return jax.random.split(jax.random.PRNGKey(self.random_state), 3)[-1]

    def estimator(self):
        """Gives the product with minibatches of its own."""
        return neumann(
            self.n_hia_steps, self.step_size, randomized=True, fresh_batches=True, tolerance=None
        )

    def draw_terms(self, state, draws):
        """Gives the state that will draw as they do, and their minibatches; the last is free."""
        key, terms = draws.states["key"], self.n_hia_steps
        p = jax.random.randint(key, (1,), 0, terms)[0]
        draws.states = {**draws.states, "key": jax.random.split(key, 1)[0]}
        starts = draws.starts_up_to("inner", p, terms + 1)
        return state._replace(key=self.keys[p]), starts

    def arguments(self, state, draws):
        """See Plugin. The cross derivative is taken on the inner step's minibatch."""
        inner, outer = draws.one("inner").start, draws.one("outer").start
        state, terms = self.draw_terms(state, draws)
        return state, (outer, inner), {"estimate_batch": terms.at[-1].set(inner)}

    def init(self) -> tuple:
        """See Plugin."""
        state, states = super().init()
        return state, {**states, "key": self.first_key()}

    def get_step(self, inner_sampler, outer_sampler):
        """See Plugin."""
        self.keys = draws_of_terms(self.n_hia_steps)
        return super().get_step(inner_sampler, outer_sampler)


class Periodic(Plugin):
    """A method with a full pass at the start of each period."""

    parameters: ClassVar = {**Plugin.parameters, "period_frac": [0.5]}

    def init(self) -> tuple:
        """See Plugin; the carry ends with the number of steps taken."""
        return *super().init(), 0

    def get_one_epoch_jitted(self, inner_sampler, outer_sampler):
        """See Plugin."""
        step = self.get_step(inner_sampler, outer_sampler)
        samples = self.n_inner_samples + self.n_outer_samples
        period = int(samples * self.period_frac / self.batch_size)

        return periodic_epochs(step, lambda carry: self.full_step(step, carry), period)

    def full_step(self, step, carry):
        """Takes a step that is given all data besides its minibatches."""
        return step(carry, {"outer_full": WHOLE, "inner_full": WHOLE})[0]
