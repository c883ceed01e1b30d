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
# # Many steps from one gradient: target-based surrogates
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/optlab/optlab/blob/main/notebooks/sso.ipynb)
#
# J. W. Lavington, S. Vaswani, R. Babanezhad, M. Schmidt, N. Le Roux, *Target-based Surrogates for
# Stochastic Optimization*, ICML 2023, [arXiv:2302.02607](https://arxiv.org/abs/2302.02607).
#
# **The claim that this notebook checks.** Where the gradient of the loss is what costs, as in a
# simulator, one such gradient can serve many steps of the model: it sets targets for the model's
# outputs, and steps of a squared distance to them need the model alone. More of these inner steps
# then mean a lower loss after as many gradients.

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
from flax import nnx

from optlab.training import DataConfig, ModelConfig
from optlab.training.data import load_data, scale_pixels
from optlab.training.models import functional, make_model
from optlab.transforms.adaptive import sso

# The tests run this notebook at a tiny size; the claim must hold there too.
FAST = bool(os.environ.get("FAST"))
GRADIENTS, EXAMPLES = (10, 100) if FAST else (30, 400)
INNER_STEPS = (1, 5) if FAST else (1, 5, 20)
SEEDS = (1, 2, 3)  # seed 0 chooses a step size for each method

# %% [markdown]
# An MLP learns handwritten digits, all of them in each step. Its outputs are the logits; the loss
# is their mean cross-entropy.

# %%
data = load_data(DataConfig())
batch = {
    "x": scale_pixels(jnp.asarray(data.train.inputs[:EXAMPLES])),
    "y": jnp.asarray(data.train.targets[:EXAMPLES]),
}
config = ModelConfig(widths=(64, 64))
model = functional(lambda key: make_model(config, data.shape, 10, rngs=nnx.Rngs(key)))


def predict(params, batch):
    return model.apply(params, {}, batch["x"])[0]


def loss(logits, batch):
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


# %%
@jax.jit
def descend(seed, rate):
    """Gradient descent: the loss before each of its gradients, and after the last."""
    params = model.init(jax.random.key(seed))[0]

    def step(params, _):
        value, slope = jax.value_and_grad(lambda p: loss(predict(p, batch), batch))(params)
        return jax.tree.map(lambda p, g: p - rate * g, params, slope), value

    params, values = jax.lax.scan(step, params, length=GRADIENTS)
    return jnp.append(values, loss(predict(params, batch), batch))


def surrogate(inner_steps):
    """The same for SSO; the step size is that of an example's own loss."""

    @jax.jit
    def run(seed, rate):
        solver = sso(predict, loss, optax.sgd(rate * EXAMPLES), inner_steps=inner_steps)
        state = solver.init(model.init(jax.random.key(seed))[0], batch)

        def step(state, _):
            state, info = solver.step(state, batch)
            return state, info.value

        state, values = jax.lax.scan(step, state, length=GRADIENTS)
        return jnp.append(values, loss(predict(state.params, batch), batch))

    return run


methods = {"gradient descent": (descend, (0.1, 0.3, 1.0, 3.0))}
for steps in INNER_STEPS:
    methods[f"{steps} inner steps"] = (surrogate(steps), (1.0, 3.0, 10.0, 30.0))

# %%
curves, chosen = {}, {}
for name, (run, rates) in methods.items():
    last = [float(run(0, rate)[-1]) for rate in rates]
    chosen[name] = rates[int(np.nanargmin(last))]
    curves[name] = np.stack([run(seed, chosen[name]) for seed in SEEDS])

fig, ax = plt.subplots(figsize=(7, 3.5))
for name, values in curves.items():
    ax.semilogy(values.mean(axis=0), label=f"{name}, step size {chosen[name]:g}")
    ax.fill_between(range(GRADIENTS + 1), values.min(axis=0), values.max(axis=0), alpha=0.2)
ax.set(xlabel="gradients of the loss", ylabel="training loss", title="One gradient, many steps")
ax.legend(frameon=False)
fig.tight_layout()

# %% [markdown]
# **What came out.** The claim holds: at as many gradients of the loss, each of five, then twenty
# inner steps lowers it further. An inner step costs about as much as a step of gradient descent,
# so there is nothing to gain where the loss is as cheap as it is here.

# %%
found = {name: values[:, -1] for name, values in curves.items()}
for name, values in found.items():
    print(f"{name:18} {values.mean():.4f} ± {values.std(ddof=1):.4f} after {GRADIENTS} gradients")
means = [values.mean() for values in found.values()]
assert all(better < worse for worse, better in zip(means[1:], means[2:], strict=False))
assert means[-1] < 0.5 * means[0]
