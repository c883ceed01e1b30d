"""The stochastic quadratics that the solvers' tests share, in batches, and the loop over them."""

import jax
import jax.numpy as jnp
import optax

from optlab.problems import quadratic_bilevel

__all__ = ["BATCHES", "OPTIMIZERS", "QUADRATIC", "distance", "run", "zeros"]

QUADRATIC = quadratic_bilevel(jax.random.key(0))
BATCHES = 8
OPTIMIZERS = {
    "outer_optimizer": optax.sgd(0.1),
    "inner_optimizer": optax.sgd(0.1),
    "linear_optimizer": optax.sgd(0.1),
}


def _batches(data):
    return jax.tree.map(lambda a: a.reshape(BATCHES, -1, *a.shape[1:]), data)


_OUTER, _INNER = _batches(QUADRATIC.outer_data), _batches(QUADRATIC.inner_data)


def zeros(like=QUADRATIC):
    """Where the runs start: (x, y)."""
    return jnp.zeros_like(like.solution), jnp.zeros_like(like.outer_data[0])


def run(solver, steps, *, state=None, batched=True, period=None):
    """Takes steps on random batches, or all on the whole data; compiled once."""
    indices = jax.random.randint(jax.random.key(1), (steps, 2), 0, BATCHES)
    full = {"outer_full": QUADRATIC.outer_data, "inner_full": QUADRATIC.inner_data}

    def step(state, index, **options):
        i, j = index
        if not batched:
            return solver.step(state, QUADRATIC.outer_data, QUADRATIC.inner_data)
        batches = _OUTER[i], jax.tree.map(lambda a: a[j], _INNER)
        return solver.step(state, *batches, outer_index=i, inner_index=j, **options)

    def epoch(state, indices):
        state, _ = step(state, indices[0], **full)
        return jax.lax.scan(step, state, indices[1:])

    @jax.jit
    def loop(state):
        if period:
            return jax.lax.scan(epoch, state, indices.reshape(-1, period, 2))
        return jax.lax.scan(step, state, indices)

    return loop(solver.init(jax.random.key(2), *zeros()) if state is None else state)


def distance(state):
    """From the solution, in x."""
    return float(jnp.linalg.norm(state.x - QUADRATIC.solution))
