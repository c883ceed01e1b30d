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
# # Sensitivities of soft spheres, and dictionaries that know their task
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/optlab/optlab/blob/main/notebooks/sensitivity.ipynb)
#
# M. Blondel, Q. Berthet, M. Cuturi, R. Frostig, S. Hoyer, F. Llinares-López, F. Pedregosa,
# J.-P. Vert, *Efficient and Modular Implicit Differentiation*, NeurIPS 2022,
# [arXiv:2105.15183](https://arxiv.org/abs/2105.15183).
#
# **The claims that this notebook checks**, beside those of [implicit.ipynb](implicit.ipynb):
#
# 1. *Soft spheres.* Positions that minimise an energy can be differentiated in the diameter of the
#    particles. The paper reports that unrolling its minimiser fails.
# 2. *Task-driven dictionary learning.* A dictionary learnt through its sparse codes classifies better
#    than one learnt to reconstruct.

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

from optlab import implicit
from optlab.implicit import conditions, prox

jax.config.update("jax_enable_x64", True)
# The tests run this notebook at a tiny size; what does not depend on it must hold there too.
FAST = bool(os.environ.get("FAST"))


def distance(a, b):
    return float(np.linalg.norm(np.asarray(a) - np.asarray(b)))


# %% [markdown]
# ## 1. Soft spheres: the sensitivity of a packing
#
# Particles in a periodic square repel where they overlap; half of them have diameter 1, half
# $\theta$. The positions minimise the energy; how do they move when $\theta$ grows? The energy does
# not change when all particles move alike or a particle without contacts moves, so the Hessian is
# singular, and MINRES gives the answer of least norm. As in the paper it is computed in forward
# mode. The check is a finite difference: the packing, relaxed again at $\theta \pm h$.
#
# What came out: the implicit sensitivity is right. Unrolled FIRE, the paper's minimiser, and unrolled
# momentum descent are off by factors while the packing still moves, and then arrive at the same
# answer. That unrolling fails for good does not reproduce at this size.

# %%
half = 16 if FAST else 64
start = jax.random.uniform(jax.random.key(2), (2 * half, 2))
DIAMETER = 0.7
kind = np.arange(2 * half) % 2
# The discs would cover the square 1.1 times: it is jammed.
side = float(np.sqrt(half * np.pi * (1 + DIAMETER**2) / 4 / 1.1))


def energy(positions, diameter):
    sizes = jnp.where(kind == 0, 1.0, diameter)
    sigma = 0.5 * (sizes[:, None] + sizes[None, :])
    d = positions[:, None, :] - positions[None, :, :]
    d = d - side * jax.lax.stop_gradient(jnp.round(d / side))
    square = jnp.sum(d**2, axis=-1) + jnp.eye(2 * half)
    overlap = jax.nn.relu(1 - jnp.sqrt(square) / sigma) * (1 - jnp.eye(2 * half))
    return 0.25 * jnp.sum(overlap**2)  # every pair counts twice


relax = implicit.minimize(optax.lbfgs(), max_steps=4000, tol=1e-11)
packing = implicit.argmin(energy, relax, linear_solver="minres")


@jax.jit
def with_sensitivity(start, diameter):
    return jax.jvp(lambda diameter: packing(start, diameter), (diameter,), (1.0,))


positions, sensitivity = with_sensitivity(side * start, DIAMETER)
h = 1e-6
there, back = (with_sensitivity(positions, DIAMETER + s * h)[0] for s in (1, -1))
difference = (there - back) / (2 * h)
packing_error = distance(sensitivity, difference) / distance(difference, 0)


def momentum(carry):
    x, v, diameter = carry
    v = 0.9 * v - 0.1 * jax.grad(energy)(x, diameter)
    return x + v, v, diameter


def fire(carry):
    """A step of FIRE (Bitzek et al., 2006): the paper's minimiser, full of case distinctions."""
    x, v, diameter, rate, mixing, good = carry
    force = -jax.grad(energy)(x, diameter)
    downhill = jnp.vdot(force, v) > 0
    v = (1 - mixing) * v + mixing * jnp.linalg.norm(v) * force / (jnp.linalg.norm(force) + 1e-30)
    v = jnp.where(downhill, v, 0)
    good = jnp.where(downhill, good + 1, 0)
    longer = good > 5
    rate = jnp.where(downhill, jnp.where(longer, jnp.minimum(1.1 * rate, 0.4), rate), 0.5 * rate)
    mixing = jnp.where(downhill, jnp.where(longer, 0.99 * mixing, mixing), 0.1)
    v = v + rate * force
    return x + rate * v, v, diameter, rate, mixing, good


@jax.jit
def unrolled_sensitivities(steps):
    """Where the two minimisers end, and the derivative of their steps."""

    def momentum_end(diameter):
        start_of_all = (side * start, jnp.zeros_like(start), diameter)
        return jax.lax.fori_loop(0, steps, lambda _, c: momentum(c), start_of_all)[0]

    def fire_end(diameter):
        # A velocity of zero would have a norm without derivative.
        start_of_all = (side * start, 1e-9 * jnp.ones_like(start), diameter, 0.1, 0.1, 0)
        return jax.lax.fori_loop(0, steps, lambda _, c: fire(c), start_of_all)[0]

    return {
        "momentum": jax.jvp(momentum_end, (DIAMETER,), (1.0,)),
        "FIRE": jax.jvp(fire_end, (DIAMETER,), (1.0,)),
    }


lengths = (100, 400) if FAST else (100, 300, 1000)
growth = {}
for length in lengths:
    for name, (there, slope) in unrolled_sensitivities(length).items():
        # Each ends in a packing of its own: the implicit derivative is taken there.
        _, own = with_sensitivity(there, DIAMETER)
        moved = slope - slope.mean(axis=0, keepdims=True)
        growth[name, length] = distance(moved, own) / distance(own, 0)

fig, ax = plt.subplots(figsize=(5, 5))
inside = np.asarray(positions) % side
for point, k in zip(inside, kind, strict=True):
    ax.add_patch(plt.Circle(point, 0.5 if k == 0 else DIAMETER / 2, color=f"C{k}", alpha=0.35))
ax.quiver(*inside.T, *np.asarray(sensitivity).T, width=0.004)
ax.set(
    xlim=(0, side),
    ylim=(0, side),
    aspect="equal",
    title="Where the particles go as $\\theta$ grows",
)
fig.tight_layout()
print(f"implicit sensitivity, relative to finite differences: {packing_error:.1e} off")
for (name, length), error in growth.items():
    print(f"unrolled {name}, {length} steps from a random start: {error:.1e} off")

# %% [markdown]
# ## 2. Task-driven dictionary learning
#
# A digit is described by the sparse code of least elastic-net cost in a dictionary of a few atoms,
# and classified by a linear model of the code. An unsupervised dictionary minimises the error of
# reconstruction; the task-driven one the classification loss, through the codes.

# %%
atoms = 6 if FAST else 10
examples = 100 if FAST else 400
rounds = 10 if FAST else 120
digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
pixels, labels = digits.data[order] / 16, digits.target[order]
code_data, code_answers = pixels[:examples], np.eye(10)[labels[:examples]]
test_data, test_labels = pixels[1000:], labels[1000:]


def reconstruction(code, dictionary, digit):
    return 0.5 * jnp.sum((code @ dictionary - digit) ** 2)


def shrink(v, step_size, dictionary, digit):
    return prox.elastic_net(v, step_size, weight=0.1, square_weight=0.1)


coding = conditions.proximal_gradient(reconstruction, shrink, parametric=True)


@implicit.custom_root(coding)
def encode(init, dictionary, digit):
    size = 1 / jnp.linalg.norm(dictionary, 2) ** 2

    def step(carry, _):  # accelerated proximal gradient
        x, z, t = carry
        new = shrink(z - size * jax.grad(reconstruction)(z, dictionary, digit), size, None, None)
        faster = 0.5 * (1 + jnp.sqrt(1 + 4 * t * t))
        return (new, new + (t - 1) / faster * (new - x), faster), None

    return jax.lax.scan(step, (init, init, 1.0), length=300)[0][0]


def cross_entropy(w, x, y):
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(x @ w) * y, axis=-1))


def codes(dictionary, digits):
    return jax.vmap(encode, (None, None, 0))(jnp.zeros(atoms), dictionary, digits)


def unsupervised(dictionary, w):
    x = codes(dictionary, code_data)
    return jnp.mean(jnp.sum((x @ dictionary - code_data) ** 2, axis=1))


def task_driven(dictionary, w):
    return cross_entropy(w, codes(dictionary, code_data), code_answers) + 1e-4 * jnp.sum(w**2)


def learn_dictionary(loss, dictionary, w):
    optimizer = optax.adam(0.05)

    @jax.jit
    def step(both, state):
        value, slope = jax.value_and_grad(lambda both: loss(*both))(both)
        updates, state = optimizer.update(slope, state)
        dictionary, w = optax.apply_updates(both, updates)
        # Atoms of unit length, so that a code cannot be made small by scaling.
        return (dictionary / jnp.linalg.norm(dictionary, axis=1, keepdims=True), w), state, value

    both, state, curve = (dictionary, w), optimizer.init((dictionary, w)), []
    for _ in range(rounds):
        both, state, value = step(both, state)
        curve.append(float(value))
    return both, curve


@jax.jit
def classify(dictionary):
    """The accuracy on test data of a logistic regression trained on the codes."""
    train_codes = codes(dictionary, code_data)

    def loss(w):
        return cross_entropy(w, train_codes, code_answers) + 1e-4 * jnp.sum(w**2)

    w = implicit.minimize(optax.lbfgs(), max_steps=300, tol=1e-6)(loss, jnp.zeros((atoms, 10)))
    guess = jnp.argmax(codes(dictionary, test_data) @ w, axis=1)
    return jnp.mean(guess == test_labels)


random = np.random.default_rng(1).normal(size=(atoms, 64))
random = jnp.asarray(random / np.linalg.norm(random, axis=1, keepdims=True))
(learnt, _), _ = learn_dictionary(unsupervised, random, jnp.zeros((atoms, 10)))
(driven, _), curve = learn_dictionary(task_driven, learnt, jnp.zeros((atoms, 10)))
dictionary_scores = {
    "random": classify(random),
    "unsupervised": classify(learnt),
    "task-driven": classify(driven),
}
for label, score in dictionary_scores.items():
    print(f"{label:13} dictionary of {atoms} atoms: test accuracy {100 * score:.1f} %")

fig, axes = plt.subplots(2, atoms, figsize=(9, 2.4))
for row, (label, dictionary) in zip(
    axes, {"unsupervised": learnt, "task-driven": driven}.items(), strict=True
):
    for ax, atom in zip(row, dictionary, strict=True):
        ax.imshow(atom.reshape(8, 8), cmap="gray")
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(label, fontsize=8)
fig.suptitle("The dictionaries")
fig.tight_layout()

# %% [markdown]
# ## The claims, asserted

# %%
# 1. Implicit sensitivities are those of finite differences.
assert packing_error < 1e-3

# 2. The task helps.
if not FAST:
    assert dictionary_scores["task-driven"] > dictionary_scores["unsupervised"]
assert curve[-1] < curve[0]
print("all assertions hold")
