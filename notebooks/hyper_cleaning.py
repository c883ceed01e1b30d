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
# # Data hyper-cleaning: which labels are wrong?
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/optlab/optlab/blob/main/notebooks/hyper_cleaning.ipynb)
#
# Of 1,000 labelled digits 40 % have a wrong label, and nobody knows which. For 100 others the
# labels are surely right: too few to learn from, but enough to judge by. Give each of the 1,000
# examples a weight $\sigma(x_i)$, let a linear classifier learn from the weighted examples, and
# choose the weights such that it does well on the 100:
#
# $$\min_x \frac1m \sum_j \ell(y^*(x); \text{clean}_j), \qquad
#   y^*(x) = \arg\min_y \frac1n \sum_i \sigma(x_i)\,\ell(y; \text{noisy}_i) + \frac\rho2 \|y\|^2.$$
#
# That is 1,000 hyperparameters, for which a hypergradient costs as much as for one.
#
# **The claims that this notebook checks**: the weights find the right labels with an F1 of 0.90 or
# more, and the classifier's test error is at least a point below that of one which learns from
# all noisy labels, and of one which learns from the 100 alone. (L. Franceschi et al., ICML 2017,
# [arXiv:1703.01785](https://arxiv.org/abs/1703.01785), for the problem.)

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
from sklearn.datasets import load_digits

from optlab import bilevel, hypergrad
from optlab.implicit import minimize
from optlab.problems import cleaning_scores, corrupt_labels, hyper_cleaning

# The tests run this notebook at a tiny size; the claims must hold there too.
FAST = bool(os.environ.get("FAST"))
STEPS = 120 if FAST else 150

# %% [markdown]
# ## Data

# %%
pixels, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
inputs = jnp.asarray(pixels[order] / 16.0, jnp.float32)
inputs = jnp.hstack([inputs, jnp.ones((len(inputs), 1))])  # a column for the bias
labels = jnp.asarray(labels[order], jnp.int32)
train, clean_rows, test = slice(0, 1000), slice(1000, 1100), slice(1100, None)

wrong, clean = corrupt_labels(jax.random.key(0), labels[train], fraction=0.4, classes=10)
inner_batch = inputs[train], wrong, jnp.arange(1000)
outer_batch = inputs[clean_rows], labels[clean_rows]

problem = hyper_cleaning(lambda params, a: a @ params, penalty=3e-3)


def error(params):
    return float(jnp.mean((inputs[test] @ params).argmax(axis=-1) != labels[test]))


# %% [markdown]
# ## What there is to beat
#
# The same classifier, learnt to its optimum from all noisy labels, from the 100 alone, and, as no
# one can in practice, from the 600 right ones.

# %%
solve = jax.jit(
    lambda x, batch: minimize(optax.lbfgs(), max_steps=500, tol=1e-5)(
        lambda y: problem.inner(x, y, batch), jnp.zeros((65, 10))
    )
)
everything = jnp.full(1000, 20.0)  # weights of one
few = (*outer_batch, jnp.arange(100))
right = tuple(a[np.flatnonzero(clean)] for a in inner_batch)
errors = {
    "all noisy labels": error(solve(everything, inner_batch)),
    "the 100 clean ones": error(solve(everything, few)),
    "only the right ones (oracle)": error(solve(everything, right)),
}

# %% [markdown]
# ## Cleaning
#
# Ten inner steps, then a hypergradient by conjugate gradients, and Adam on the weights: the
# solver `alternating`, which is AID. The residuals of the linear solves are reported, below.
#
# We stop after 150 steps: who goes on fits the 100 examples ever better with 1,000 weights, and
# the test error rises again.

# %%
solver = bilevel.alternating(
    *problem,
    outer_optimizer=optax.adam(0.1),
    inner_optimizer=optax.sgd(0.5, momentum=0.9),
    estimator=hypergrad.cg(max_steps=50),
    inner_steps=10,
)


@jax.jit
def run(state):
    def step(state, _):
        state, info = solver.step(state, outer_batch, inner_batch)
        scores = cleaning_scores(state.x, clean)
        hits = (inputs[test] @ state.y).argmax(axis=-1) == labels[test]
        return state, (1 - hits.mean(), scores.f1, info.linear_norm)

    return jax.lax.scan(step, state, length=STEPS)


state, (path, f1s, residuals) = run(
    solver.init(jax.random.key(0), jnp.zeros(1000), jnp.zeros((65, 10)))
)
f1 = cleaning_scores(state.x, clean).f1
errors["cleaned"] = error(solve(state.x, inner_batch))

# %%
fig, (left, right_ax) = plt.subplots(1, 2, figsize=(10, 3.6))
left.plot(100 * np.asarray(path), label="cleaned", color="C0")
for i, (name, value) in enumerate(errors.items()):
    if name != "cleaned":
        left.axhline(100 * value, color=f"C{i + 1}", ls="--", label=name)
left.set(
    xlabel="outer step", ylabel="test error, %", title="One classifier, four diets", ylim=(0, 30)
)
left.legend(frameon=False)
weights = np.asarray(jax.nn.sigmoid(state.x))
bins = np.linspace(0, 1, 21)
right_ax.hist([weights[clean], weights[~clean]], bins, label=["right label", "wrong label"])
right_ax.set(xlabel="learnt weight", ylabel="examples", title=f"The weights: F1 = {f1:.3f}")
right_ax.legend(frameon=False)
fig.tight_layout()

# %% [markdown]
# ## The least trusted
#
# The ten examples with the lowest weights, with the labels they came with.

# %%
fig, axes = plt.subplots(1, 10, figsize=(10, 1.6))
for ax, i in zip(axes, np.argsort(weights)[:10], strict=True):
    ax.imshow(inputs[i, :64].reshape(8, 8), cmap="gray_r")
    ax.set_title(f"“{int(wrong[i])}”", color="C2" if clean[i] else "C3")
    ax.axis("off")
fig.tight_layout()

# %% [markdown]
# ## The claims, asserted

# %%
for name, value in errors.items():
    print(f"{name:30} {value:6.2%} of the test digits wrong")
print(
    f"F1 of the right labels: {f1:.3f}; largest residual of a linear solve: {residuals.max():.1e}"
)
assert f1 >= 0.90
assert errors["cleaned"] <= errors["all noisy labels"] - 0.01
assert errors["cleaned"] <= errors["the 100 clean ones"] - 0.01
