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
# # Self-tuning networks: a schedule of hyperparameters in one run
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/optlab/optlab/blob/main/notebooks/stn.ipynb)
#
# M. MacKay, P. Vicol, J. Lorraine, D. Duvenaud, R. Grosse, *Self-Tuning Networks: Bilevel
# Optimization of Hyperparameters using Structured Best-Response Functions*, ICLR 2019,
# [arXiv:1903.03088](https://arxiv.org/abs/1903.03088).
#
# **The claims that this notebook checks.** A network whose layers learn how their weights should
# answer small changes of the hyperparameters can follow that answer on held-out data, and so tune
# its regularisation while it trains, once. The paper's result is better
# than the best fixed hyperparameters of a grid search, each point of which takes as many training
# steps; and it is a *schedule*: regularisation comes in when there is something to regularise.
#
# **What came out.** One run of STN ties with the best of 25 points, over eight seeds. Its
# hyperparameters do follow a schedule, though not the same one for every seed.

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

from optlab.bilevel import stn
from optlab.training import DataConfig
from optlab.training.bilevel import BilevelConfig, PartConfig, make_task

# The tests run this notebook on the bundled digits, at a tiny size.
FAST = bool(os.environ.get("FAST"))
STEPS = 40 if FAST else 750  # of the solver: two training steps and one on held-out data
EVERY = STEPS // 20
SEEDS = 2 if FAST else 8
BATCH = 32
SIZES = (
    {"train": 200, "validation": 400, "shrink": 1} if FAST else {"train": 500, "validation": 5000}
)

# %% [markdown]
# ## The problem
#
# 500 images of Fashion-MNIST, made smaller to 14x14, are all there is to learn from: a small
# convolutional network overfits them soon. Four hyperparameters can prevent that: rates of dropout
# at three places, and a weight decay. 5,000 other images tell how well they do.
#
# Each layer computes $s\,(Wx + b) + (Ah)_w \odot (W'x) + (Ah)_b \odot b'$, where $h$ is how far the
# hyperparameters are from their start. $A$, $W'$ and $b'$ learn how the layer should answer $h$.


# %%
def make(**arguments):
    """The problem, with its data on the device."""
    config = BilevelConfig(
        outer_batch_size=BATCH,
        inner_batch_size=BATCH,
        inner_batches_per_step=2,
        data=DataConfig(name="digits" if FAST else "fashion_mnist"),
        problem=PartConfig(name="self_tuning", arguments={**SIZES, **arguments}),
    )
    task = make_task(config)
    return task, jax.device_put((task.outer_data, task.inner_data))


def adam(rate, steps):
    """Adam with a rate that falls to zero."""
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


task, data = make()
validation = tuple(data[0])
x, y = task.init(jax.random.key(0))
print(f"{sum(leaf.size for leaf in jax.tree.leaves(y)):,} parameters, half of them of the answer")

# %% [markdown]
# ## One run of STN
#
# In each training step, every example sees hyperparameters of its own, drawn around the current
# ones; the widths of the draws are learnt as well. In between, the hyperparameters move along the
# gradient of the held-out loss *through the layers' answer*: there is no dropout and no decay in
# that loss, so that the answer is all there is.

# %%
solver = stn(
    *task.problem,
    outer_optimizer=adam(2e-2, STEPS),
    inner_optimizer=adam(2e-3, 2 * STEPS),
    scale_optimizer=optax.adam(3e-3),
    fresh_batches=True,
)


def look(state):
    """The hyperparameters and the held-out loss."""
    return {
        "dropout": jax.nn.sigmoid(state.x["logits"]),
        "decay": jnp.exp(state.x["log_decay"]),
        "loss": task.problem.outer(state.x, state.y, validation),
    }


@jax.jit
def tune(key):
    """A run: what it came to after every so many steps."""
    start, own, batches = jax.random.split(key, 3)

    def step(state, key):
        return solver.step(state, *task.draw(key, *data))

    def stretch(state, keys):
        state, _ = jax.lax.scan(step, state, keys)
        return state, look(state)

    keys = jax.random.split(batches, (STEPS // EVERY, EVERY))
    return jax.lax.scan(stretch, solver.init(own, *task.init(start)), keys)[1]


runs = [jax.device_get(tune(jax.random.key(seed))) for seed in range(SEEDS)]

# %% [markdown]
# ## A grid of fixed hyperparameters
#
# The same network without its answer, at five rates of dropout, the same at all places, by five
# decays: 25 runs of as many training steps, of the same size, by the same optimizer. The best point
# is run with the other seeds as well, and so is where STN ended, but fixed from the start.

# %%
RATES, DECAYS = (0.001, 0.1, 0.2, 0.35, 0.5), (1e-5, 1e-4, 1e-3, 3e-3, 1e-2)
if FAST:
    RATES, DECAYS = RATES[:2], DECAYS[:2]
plain, _ = make(answers=False)
optimizer = adam(2e-3, 2 * STEPS)


@jax.jit
def fit(x, key):
    """Trains at fixed hyperparameters; the held-out losses along the way."""
    start, _, batches = jax.random.split(key, 3)

    def step(carry, batch):
        y, state = carry
        updates, state = optimizer.update(jax.grad(plain.problem.inner, 1)(x, y, batch), state, y)
        return (optax.apply_updates(y, updates), state), None

    def steps(carry, key):
        return jax.lax.scan(step, carry, plain.draw(key, *data)[1])[0], None

    def stretch(carry, keys):
        carry, _ = jax.lax.scan(steps, carry, keys)
        return carry, plain.problem.outer(x, carry[0], validation)

    y = plain.init(start)[1]
    keys = jax.random.split(batches, (STEPS // EVERY, EVERY))
    return jax.lax.scan(stretch, (y, optimizer.init(y)), keys)[1]


def point(rates, decay):
    rates = jnp.asarray(rates)
    return {"logits": jnp.log(rates / (1 - rates)), "log_decay": jnp.log(jnp.asarray(decay))}


seeds = [jax.random.key(seed) for seed in range(SEEDS)]
grid = np.array([[fit(point([rate] * 3, decay), seeds[0]) for decay in DECAYS] for rate in RATES])
best = np.unravel_index(grid[..., -1].argmin(), grid.shape[:2])
rate, decay = RATES[best[0]], DECAYS[best[1]]
fixed = np.array([fit(point([rate] * 3, decay), seed) for seed in seeds])
last = runs[0]
ended = np.asarray(fit(point(last["dropout"][-1], last["decay"][-1]), seeds[0]))

# %% [markdown]
# ## What came out

# %%
steps = 2 * EVERY * np.arange(1, STEPS // EVERY + 1)
fig, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.6))
for losses in grid.reshape(-1, len(steps)):
    left.plot(steps, losses, color="0.85")
left.plot(steps, grid[best], color="k", label="best of the grid")
for run in runs:
    left.plot(steps, run["loss"], color="C3", label="STN" if run is last else None)
left.set(xlabel="training steps", title="loss on held-out images", yscale="log")
left.legend(frameon=False)
for i, place in enumerate(("input", "features", "hidden")):
    for run in runs:
        middle.plot(
            steps, run["dropout"][:, i], color=f"C{i}", label=place if run is last else None
        )
middle.set(xlabel="training steps", title="the schedules: dropout")
middle.legend(frameon=False)
for run in runs:
    right.semilogy(steps, run["decay"], color="C4")
right.set(xlabel="training steps", title="the schedules: weight decay")
fig.tight_layout()

# %% [markdown]
# ## The claims, checked
#
# The last losses are compared, and the best ones along the way, which is what early stopping on the
# same images would give either of them. The held-out images choose here, for both: these are no
# test scores. It takes eight seeds to see the tie, at 0.613 with standard errors of 0.006 and 0.003;
# with learning rates that stay constant the last losses vary by twice as much.

# %%
tuned = np.array([run["loss"] for run in runs])


def row(name, losses):
    error = losses.std(ddof=1) / len(losses) ** 0.5
    print(f"{name:22} {losses.mean():.4f} ± {error:.4f}, seeds", *(f"{v:.3f}" for v in losses))


row("STN", tuned[:, -1])
row("best of the grid", fixed[:, -1])
row("STN, best on its way", tuned.min(axis=1))
row("grid, best on its way", fixed.min(axis=1))
print(f"the grid's best has dropout {rate} and decay {decay}; its worst point {grid.max():.4f}")
print(f"STN's last hyperparameters, fixed from the start: {ended[-1]:.4f}, seed 0")
print("STN's dropout at the end:", " ".join(f"{rate:.2f}" for rate in last["dropout"][-1]))

assert all(np.ptp(run["dropout"], axis=0).max() > 0.01 for run in runs), "a schedule"
if not FAST:  # in a few steps nothing overfits
    assert tuned[:, -1].mean() <= 1.02 * fixed[:, -1].mean()
