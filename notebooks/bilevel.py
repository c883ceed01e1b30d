# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One bilevel problem, many solvers
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/optlab/optlab/blob/main/notebooks/bilevel.ipynb)
#
# A bilevel problem is $\min_x f(x, y^*(x))$ where $y^*(x)$ minimises $g(x, y)$ over $y$. In optlab
# a method for it is a `Solver`, two pure functions:
#
# ```python
# state = solver.init(key, x, y)
# state, info = solver.step(state, outer_batch, inner_batch)
# ```
#
# so that they are all run by the same loop, under `jit`, `scan` and `vmap`, with any optax
# optimizer at either level.
#
# **The claims that this notebook checks**, on random quadratics whose solution $x^*$ is known.
#
# 1. From batches, with constant steps, the single-loop method SOBA comes near $x^*$ and stays at a
#    distance that its noise decides; its variance-reduced twin SABA goes all the way
#    (M. Dagréou et al., NeurIPS 2022, [arXiv:2201.13409](https://arxiv.org/abs/2201.13409)).
# 2. A method that inverts the Hessian of one small batch, as AID does here and StocBiO nearly does,
#    is biased: the mean of inverses is not the inverse of the mean. Going on does not help it.
# 3. First-order methods, which need no second derivatives, pay for that with a bias: the penalty
#    method ends at a distance of the order of its $\sigma$ (J. Kwon et al., ICLR 2024,
#    [arXiv:2309.01753](https://arxiv.org/abs/2309.01753)).

# %%
import sys

if "google.colab" in sys.modules:
    # %pip install -q "optlab[experiments] @ git+https://github.com/optlab/optlab"
    pass

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from optlab import bilevel, hypergrad
from optlab.problems import quadratic_bilevel

# The tests run this notebook at a tiny size; the claims must hold there too.
FAST = bool(os.environ.get("FAST"))
ROWS, BATCH = 64, 8
STEPS = 8_000 if FAST else 20_000

made = quadratic_bilevel(jax.random.key(0), rows=ROWS)
f, g = made.problem
sgd = optax.sgd

# %% [markdown]
# ## The solvers
#
# Each is one call. The step sizes are the same everywhere but for the outer one of the double
# loops, which see a better $y$ and may move faster.

# %%
single = {"inner_optimizer": sgd(0.05), "linear_optimizer": sgd(0.05)}
double = {"inner_optimizer": sgd(0.05), "outer_optimizer": sgd(0.05)}
batches = {"outer_batches": ROWS // BATCH, "inner_batches": ROWS // BATCH}
solvers = {
    "SOBA": bilevel.soba(f, g, outer_optimizer=sgd(0.02), **single),
    "SABA": bilevel.saba(f, g, outer_optimizer=sgd(0.02), **single, **batches),
    "AmIGO": bilevel.amigo(f, g, outer_optimizer=sgd(0.05), inner_steps=5, **single),
    "StocBiO": bilevel.stocbio(f, g, inner_steps=5, terms=20, neumann_step=0.1, **double),
    "AID (CG)": bilevel.alternating(f, g, estimator=hypergrad.cg(), inner_steps=5, **double),
    "penalty (0.1)": bilevel.penalty(f, g, sigma=0.1, inner_steps=5, **double),
    "SOBA with Adam": bilevel.soba(f, g, outer_optimizer=optax.adam(1e-3), **single),
}


# %% [markdown]
# ## The loop
#
# One loop runs them all: at each step a batch of either level, by its number. Three seeds at once,
# by `vmap`.


# %%
def rows_of(data, number):
    return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, number * BATCH, BATCH), data)


def distances(solver, seed):
    """The distance of x to the solution at every 50th step."""
    start, draws = jax.random.split(jax.random.key(seed))
    state = solver.init(start, jnp.zeros(3), jnp.zeros(6))

    def step(state, key):
        i, j = jax.random.randint(key, (2,), 0, ROWS // BATCH)
        state, _ = solver.step(
            state,
            rows_of(made.outer_data, i),
            rows_of(made.inner_data, j),
            outer_index=i,
            inner_index=j,
        )
        return state, None

    def fifty(state, keys):
        return jax.lax.scan(step, state, keys)[0], jnp.linalg.norm(state.x - made.solution)

    keys = jax.random.split(draws, (STEPS // 50, 50))
    return jax.lax.scan(fifty, state, keys)[1]


paths = {
    name: np.asarray(jax.jit(jax.vmap(lambda seed, s=solver: distances(s, seed)))(jnp.arange(3)))
    for name, solver in solvers.items()
}

# %%
fig, ax = plt.subplots(figsize=(7.5, 4.2))
for name, path in paths.items():
    steps = 50 * np.arange(path.shape[1])
    (line,) = ax.semilogy(steps, path.mean(axis=0), label=name)
    ax.fill_between(
        steps, path.min(axis=0), path.max(axis=0), color=line.get_color(), alpha=0.15, lw=0
    )
ax.set(xlabel="step", ylabel="distance to $x^*$", title="Seven solvers, one loop (three seeds)")
ax.grid(alpha=0.3)
ax.legend(frameon=False, ncols=2)
fig.tight_layout()

# %% [markdown]
# ## The bias of the penalty method
#
# Without noise it ends at the minimum of its own function, at a distance that is proportional to
# $\sigma$.

# %%
gaps = {}
for sigma in (0.1, 0.03, 0.01):
    solver = bilevel.penalty(
        f, g, sigma=sigma, inner_steps=20, inner_optimizer=sgd(0.3), outer_optimizer=sgd(0.1)
    )

    @jax.jit
    def solve(solver=solver):
        state = solver.init(jax.random.key(0), jnp.zeros(3), jnp.zeros(6))

        def step(state, _):
            return solver.step(state, made.outer_data, made.inner_data)[0], None

        return jax.lax.scan(step, state, length=1500)[0].x

    gaps[sigma] = float(jnp.linalg.norm(solve() - made.solution))
    print(f"sigma = {sigma:<5} distance to the solution {gaps[sigma]:.4f}")

# %% [markdown]
# ## The claims, asserted

# %%
tail = {name: float(path[:, -path.shape[1] // 5 :].mean()) for name, path in paths.items()}
for name, distance in sorted(tail.items(), key=lambda item: item[1]):
    print(f"{name:16} stays at {distance:.1e}, from {float(paths[name][0, 0]):.1f}")

assert tail["SABA"] < 0.05 * tail["SOBA"]  # the noise is gone
assert tail["SOBA"] < 0.3 * paths["SOBA"][0, 0]
assert tail["AID (CG)"] > 3 * tail["SOBA"]  # the bias of an inverse of one batch
slope = np.log(gaps[0.1] / gaps[0.01]) / np.log(10)
assert 0.8 < slope < 1.2, slope  # a bias of the order of sigma
print(f"the penalty method's bias goes as sigma to the power of {slope:.2f}")
