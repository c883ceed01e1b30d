"""What the plug-ins need and what needs no benchopt: objectives, step sizes, draws, loops."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab.base import Solver

__all__ = [
    "WHOLE",
    "Draw",
    "Draws",
    "Part",
    "count_of_parts",
    "draws_of_terms",
    "epochs",
    "falling",
    "objective",
    "periodic_epochs",
    "sgd",
    "stepper",
]

WHOLE = ()  # all data, as a batch without arrays


class Part(NamedTuple):
    """One of the equal parts of all data, as a batch."""

    index: jax.Array  # shape=(), dtype=int


class Draw(NamedTuple):
    """A minibatch of the benchmark: where it starts in the data, and its number."""

    start: jax.Array  # shape=(), dtype=int
    index: jax.Array  # shape=(), dtype=int


class Draws:
    """The benchmark's two samplers, for one step: every call draws, ``states`` is what is left.

    Args:
        samplers: by level; each ``state -> (start, index, weight, state)``, with a dict for state.
        states: of the samplers, by level.
    """

    def __init__(self, samplers: dict[str, Callable], states: dict[str, dict]):
        self.samplers, self.states = samplers, states

    def _next(self, level: str, state: dict) -> tuple[Draw, dict]:
        # A copy, because the benchmark's samplers write into what they are given.
        start, index, _, state = self.samplers[level](dict(state))
        return Draw(start, index), state

    def one(self, level: str) -> Draw:
        """Draws a minibatch of a level, "inner" or "outer"."""
        draw, state = self._next(level, self.states[level])
        self.states = {**self.states, level: state}
        return draw

    def starts(self, level: str, count: int) -> jax.Array:
        """Draws some minibatches in a row: where they start, shape=[count]."""
        return self.starts_up_to(level, count, count)

    def starts_up_to(self, level: str, count: Any, size: int) -> jax.Array:
        """Draws as many as ``count`` says, which may be traced; zeros fill up, shape=[size]."""

        def body(i, carry):
            state, starts = carry
            draw, state = self._next(level, state)
            return state, starts.at[i].set(draw.start)

        carry = (self.states[level], jnp.zeros(size, int))
        state, starts = jax.lax.fori_loop(0, count, body, carry)
        self.states = {**self.states, level: state}
        return starts


def count_of_parts(sizes: Sequence[int], batch_size: int) -> int:
    """Into how many equal parts data sets can be cut, none smaller than a batch in the largest.

    >>> count_of_parts([1024, 1024], 64), count_of_parts([5000, 20000], 64)
    (16, 250)
    """
    largest, common = max(sizes), math.gcd(*sizes)
    return max(c for c in range(1, common + 1) if common % c == 0 and largest // c >= batch_size)


def objective(function: Callable, samples: int, parts: int = 1) -> Callable:
    """The benchmark's ``f(inner_var, outer_var, start)`` as optlab's ``f(x, y, batch)``.

    A batch is where it starts in the data, a ``Part`` of so many, or ``WHOLE`` for all ``samples``.
    """

    def f(x, y, batch):
        if isinstance(batch, Part):
            size = samples // parts
            return function(y, x, batch.index * size, batch_size=size)
        if isinstance(batch, tuple):
            return function(y, x, 0, batch_size=samples)
        return function(y, x, batch)

    return f


def falling(constant: float, exponent: float, updates: int = 1) -> Callable:
    """The benchmark's schedule ``constant / (t + 1) ** exponent``, of the count of updates.

    Args:
        constant: the first value.
        exponent: how it falls.
        updates: in one step t of the solver, all with one value.

    Returns:
        The schedule.
    """

    return lambda count: constant / (count // updates + 1) ** exponent


def sgd(constant: float, exponent: float = 0.0, updates: int = 1) -> optax.GradientTransformation:
    """Plain steps of the sizes of :func:`falling`.

    >>> tx = sgd(0.5, 0.5)
    >>> one = jnp.ones(())
    >>> state = tx.init(one)
    >>> for _ in range(4):
    ...     step, state = tx.update(one, state)
    >>> round(float(step), 6)
    -0.25
    """
    return optax.sgd(falling(constant, exponent, updates) if exponent else constant)


def draws_of_terms(terms: int) -> jax.Array:
    """Keys for a state of :func:`optlab.bilevel.alternating`: with key p it draws the term p.

    The benchmark draws the length p of a random Neumann product from keys of its own. A plug-in
    takes p from there, and makes optlab's solver draw the same.

    Args:
        terms: the number of terms to draw from.

    Returns:
        The raw keys, shape=[terms, 2].

    >>> keys = draws_of_terms(3)
    >>> used = jax.vmap(lambda k: jax.random.split(jax.random.wrap_key_data(k))[1])(keys)
    >>> [int(jax.random.randint(key, (), 0, 3)) for key in used]
    [0, 1, 2]
    """
    candidates = jax.random.split(jax.random.key(0), 64 * terms)
    used = jax.vmap(lambda key: jax.random.split(key)[1])(candidates)
    drawn = jax.vmap(lambda key: jax.random.randint(key, (), 0, terms))(used)
    first = jnp.stack([jnp.argmax(drawn == p) for p in range(terms)])
    return jax.random.key_data(candidates[first])


def stepper(solver: Solver, samplers: dict[str, Callable], arguments: Callable) -> Callable:
    """Makes ``step(carry, options) -> (carry, None)`` of a solver, for scans.

    Args:
        solver: of optlab.
        samplers: see :class:`Draws`.
        arguments: ``(state, draws) -> (state, batches, options)``, what the solver is to be given.

    Returns:
        The step. Its carry is the solver's state and the samplers' states; ``options``, a dict or
        None, go to the solver as well.
    """

    def step(carry, options):
        state, states = carry
        draws = Draws(samplers, states)
        state, batches, own = arguments(state, draws)
        state, _ = solver.step(state, *batches, **own, **(options or {}))
        return (state, draws.states), None

    return step


def epochs(step: Callable) -> Callable:
    """Makes ``epoch(carry, length) -> carry``, compiled; it overwrites the state it is given."""

    @functools.partial(jax.jit, static_argnums=2, donate_argnums=0)
    def epoch(state, states, length):
        return jax.lax.scan(step, (state, states), None, length=length)[0]

    return lambda carry, length: epoch(*carry, length)


def periodic_epochs(step: Callable, full_step: Callable, period: int) -> Callable:
    """Likewise, with a full step at the start of each period, and a carry that ends with a count.

    Args:
        step: what :func:`stepper` gives.
        full_step: ``carry -> carry``.
        period: in steps.

    Returns:
        ``epoch((state, states, taken), length)``, with the number of steps taken so far.
    """

    def either(carry, t):
        return jax.lax.cond(t % period == 0, full_step, lambda c: step(c, None)[0], carry), None

    @functools.partial(jax.jit, static_argnums=3, donate_argnums=0)
    def epoch(state, states, taken, length):
        carry, _ = jax.lax.scan(either, (state, states), taken + jnp.arange(length))
        return *carry, taken + length

    return lambda carry, length: epoch(*carry, length)
