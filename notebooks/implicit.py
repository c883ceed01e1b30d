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
# # Efficient and modular implicit differentiation
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/optlab/optlab/blob/main/notebooks/implicit.ipynb)
#
# M. Blondel, Q. Berthet, M. Cuturi, R. Frostig, S. Hoyer, F. Llinares-López, F. Pedregosa,
# J.-P. Vert, *Efficient and Modular Implicit Differentiation*, NeurIPS 2022,
# [arXiv:2105.15183](https://arxiv.org/abs/2105.15183).
#
# **The claims that this notebook checks**, on data small enough for a minute:
#
# 1. *Ridge.* At the same error of the solution, the implicit Jacobian is far closer to the true one
#    than that of unrolled steps, and within the bound of the paper's theorem 1.
# 2. *Multiclass SVM.* The condition that is differentiated need not be that of the solver, and
#    implicit differentiation takes less time than unrolling.
# 3. *Dataset distillation.* One learnt image a class trains a classifier; the implicit gradient is
#    several times cheaper than the unrolled one (the paper: four).
#
# The paper's two other experiments, on soft spheres and dictionaries, are in
# [sensitivity.ipynb](sensitivity.ipynb).

# %%
import sys

if "google.colab" in sys.modules:
    # %pip install -q "optlab[experiments] @ git+https://github.com/optlab/optlab"
    pass

# %%
import os
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_diabetes, load_digits

from optlab import implicit
from optlab.implicit import conditions

jax.config.update("jax_enable_x64", True)
# The tests run this notebook at a tiny size; what does not depend on it must hold there too.
FAST = bool(os.environ.get("FAST"))

digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
pixels, labels = digits.data[order] / 16, digits.target[order]


def seconds(function, *args, repeats=3):
    """The CPU seconds of a compiled call, least of some; and its value."""
    value = jax.block_until_ready(function(*args))
    found = []
    for _ in range(repeats):
        start = time.process_time()
        jax.block_until_ready(function(*args))
        found.append(time.process_time() - start)
    return min(found), value


def distance(a, b):
    return float(np.linalg.norm(np.asarray(a) - np.asarray(b)))


# %% [markdown]
# ## 1. Ridge regression: how good is the Jacobian of an unfinished solution?
#
# $x^*(\theta) = \arg\min_x \tfrac12 \|\Phi x - y\|^2 + \tfrac12 \sum_i \theta_i x_i^2$ on the
# diabetes data, $\theta_i = 1$. Gradient descent gives $x_t$. Its implicit Jacobian is that of the
# condition $\nabla f = 0$ at $x_t$, the unrolled one that of the $t$ steps. Theorem 1 bounds the
# error of the first by $\|x_t - x^*\| / \alpha$, with $\alpha$ the least eigenvalue of the Hessian.
#
# `on_fail="ignore"` is needed here: by default optlab gives NaN for a derivative at a point that
# does not solve the problem.

# %%
features, targets = load_diabetes(return_X_y=True)
features = features / features.std(axis=0) / np.sqrt(len(targets))
targets = (targets - targets.mean()) / targets.std() / np.sqrt(len(targets))
gram, theta = features.T @ features, 0.01 * np.ones(features.shape[1])


def ridge(x, theta):
    return 0.5 * jnp.sum((features @ x - targets) ** 2) + 0.5 * jnp.sum(theta * x**2)


eigenvalues = np.linalg.eigvalsh(gram + np.diag(theta))


def exact(theta):
    return jnp.linalg.solve(gram + jnp.diag(theta), features.T @ targets)


x_star, jacobian = exact(theta), jax.jacobian(exact)(theta)


def descend(init, theta, steps):
    def step(_, x):
        return x - jax.grad(ridge)(x, theta) / eigenvalues[-1]

    return jax.lax.fori_loop(0, steps, step, init)


def through_the_condition(theta, steps, on_fail="ignore"):
    solve = implicit.custom_root(conditions.stationarity(ridge), on_fail=on_fail)
    return solve(lambda init, theta: descend(init, theta, steps))(jnp.zeros_like(theta), theta)


@jax.jit
def measure(steps):
    """The errors of the solution, of its implicit and of its unrolled Jacobian."""

    def unrolled(theta):
        return descend(jnp.zeros_like(theta), theta, steps)

    found = (
        unrolled(theta),
        jax.jacfwd(through_the_condition)(theta, steps),
        jax.jacfwd(unrolled)(theta),
    )
    exact = x_star, jacobian, jacobian
    return jnp.stack([jnp.linalg.norm(a - b) for a, b in zip(found, exact, strict=True)])


counts = np.unique(np.geomspace(1, 1500, 25).astype(int))
errors = np.array([measure(t) for t in counts])

fig, ax = plt.subplots(figsize=(6, 3.8))
ax.loglog(errors[:, 0], errors[:, 2], "o-", ms=4, label="unrolled")
ax.loglog(errors[:, 0], errors[:, 1], "s-", ms=4, label="implicit")
ax.loglog(errors[:, 0], errors[:, 0] / eigenvalues[0], "k--", lw=1, label="theorem 1")
ax.invert_xaxis()
ax.set(xlabel="error of the solution", ylabel="error of the Jacobian", title="Ridge regression")
ax.legend(frameon=False)
fig.tight_layout()

# %% [markdown]
# ## 2. Multiclass SVM: the solver and the condition are separate choices
#
# The dual has a simplex an example, $\min_{x \in \Delta^n} \tfrac{1}{2\theta} \|A^\top (Y - x)\|^2 +
# \langle x, Y \rangle$, and gives the weights $W = A^\top (Y - x) / \theta$. The outer loss is the
# squared error on held-out data, as a function of $\lambda = \log \theta$. The features are random
# Fourier features of the digits 0 to 4. Two solvers, projected gradient and mirror descent, are
# differentiated through the same condition of a projected gradient, and through their steps.

# %%
chosen = labels < 5
train, held_out = (30, 60) if FAST else (60, 200)
size, steps = (32, 400) if FAST else (512, 3000)
y_all = np.eye(5)[labels[chosen]]
y_train, y_val = y_all[:train], y_all[train : train + held_out]


def fourier():
    rng = np.random.default_rng(0)
    w, phase = rng.normal(size=(64, size)) / 2, rng.uniform(0, 2 * np.pi, size)
    z = np.sqrt(2 / size) * np.cos(pixels[chosen] @ w + phase)
    return z[:train], z[train : train + held_out]


def svm():
    """The outer loss as a function of log theta, for each way to solve and to differentiate."""
    a_train, a_val = fourier()
    smoothness = np.linalg.norm(a_train, 2) ** 2
    project = jax.vmap(optax.projections.projection_simplex)

    def dual(x, theta):
        w = a_train.T @ (y_train - x)
        return 0.5 * jnp.sum(w * w) / theta + jnp.vdot(x, y_train)

    def projected(init, theta):
        def step(x, _):
            return project(x - theta / smoothness * jax.grad(dual)(x, theta)), None

        return jax.lax.scan(step, init, length=steps)[0]

    def mirror(init, theta):
        # In the logarithms of x, which may tend to minus infinity.
        def step(z, _):
            return jax.nn.log_softmax(
                z - theta / smoothness * jax.grad(dual)(jnp.exp(z), theta)
            ), None

        return jnp.exp(jax.lax.scan(step, jnp.log(init), length=steps)[0])

    condition = conditions.projected_gradient(dual, project, step_size=1 / smoothness)
    wrap = implicit.custom_root(condition, linear_solver="gmres", on_fail="ignore")

    def outer(solver):
        def loss(log_theta):
            theta = jnp.exp(log_theta)
            x = solver(jnp.full((train, 5), 0.2), theta)
            return 0.5 * jnp.mean(
                jnp.sum((a_val @ (a_train.T @ (y_train - x)) / theta - y_val) ** 2, -1)
            )

        return jax.jit(jax.value_and_grad(loss))

    return {
        "projected gradient, implicit": outer(wrap(projected)),
        "projected gradient, unrolled": outer(projected),
        "mirror descent, implicit": outer(wrap(mirror)),
        "mirror descent, unrolled": outer(mirror),
    }


ways, timings, slopes = svm(), {}, {}
for label, function in ways.items():
    timings[label], (_, slopes[label]) = seconds(function, jnp.array(1.0))
    print(f"{label:30} d/dlambda = {slopes[label]:+.6f}, {1e3 * timings[label]:.1f} ms of CPU")

fig, ax = plt.subplots(figsize=(6, 2.4))
ax.barh(list(timings), [1e3 * t for t in timings.values()], color=["C0", "C7", "C0", "C7"])
ax.invert_yaxis()
ax.set(xlabel="CPU milliseconds of value and gradient", title="Multiclass SVM")
fig.tight_layout()

# %% [markdown]
# With the gradient, the hyperparameter is found in a few steps of an optimizer.

# %%
hyper = ways["projected gradient, implicit"]


def tune(log_theta, rounds):
    optimizer = optax.adam(0.4)
    state, path = optimizer.init(log_theta), []
    for _ in range(rounds):
        value, slope = hyper(log_theta)
        path.append((float(log_theta), float(value)))
        updates, state = optimizer.update(slope, state)
        log_theta = optax.apply_updates(log_theta, updates)
    return np.array(path)


path = tune(jnp.array(3.0), 5 if FAST else 20)
grid = np.linspace(-3, 4, 5 if FAST else 15)
loss_curve = [float(hyper(jnp.array(g))[0]) for g in grid]
fig, ax = plt.subplots(figsize=(6, 3.2))
ax.plot(grid, loss_curve, "k-", lw=1, label="validation loss")
ax.plot(path[:, 0], path[:, 1], "o-", ms=4, label="Adam on the implicit gradient")
ax.set(xlabel=r"$\lambda = \log\theta$")
ax.legend(frameon=False)
fig.tight_layout()

# %% [markdown]
# ## 3. Dataset distillation: ten images that train a classifier
#
# The outer variables are ten images. The inner problem trains a logistic regression on them, the
# outer loss is that of the trained model on all training data.

# %%
count = 300 if FAST else 1000
data, answers = pixels[:count], np.eye(10)[labels[:count]]
test_data, test_labels = pixels[1000:], labels[1000:]


def cross_entropy(w, x, y):
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(x @ w) * y, axis=-1))


def fit(w, images):
    return cross_entropy(w, images, jnp.eye(10)) + 1e-2 * jnp.sum(w**2)


lbfgs = jax.jit(implicit.argmin(fit, implicit.minimize(optax.lbfgs(), max_steps=200, tol=1e-7)))


def gradient_descent(fun, init, *args):
    def step(w, _):
        return w - 0.4 * jax.grad(fun)(w, *args), None

    return jax.lax.scan(step, init, length=2000)[0]


slow = implicit.argmin(fit, gradient_descent, on_fail="ignore")
blank = jnp.zeros((64, 10))


def distilled(solve):
    return jax.jit(
        jax.value_and_grad(lambda images: cross_entropy(solve(blank, images), data, answers))
    )


def accuracy(w):
    return float(np.mean(np.argmax(test_data @ np.asarray(w), axis=1) == test_labels))


images = jnp.zeros((10, 64))
# The same solver, differentiated in two ways, so that only the derivative differs.
cost_implicit, (_, by_condition) = seconds(distilled(slow), images)
cost_unrolled, (_, by_steps) = seconds(distilled(lambda w, t: gradient_descent(fit, w, t)), images)
agree = distance(by_condition, by_steps) / distance(by_steps, 0)
print(
    f"gradient of the images: implicit {cost_implicit:.3f} s, unrolled {cost_unrolled:.3f} s of CPU"
)
print(f"they differ by {agree:.1e}, relative")

learn = distilled(lbfgs)
optimizer = optax.adam(0.05)
state, losses = optimizer.init(images), []
for _ in range(15 if FAST else 150):
    value, slope = learn(images)
    losses.append(float(value))
    updates, state = optimizer.update(slope, state)
    images = optax.apply_updates(images, updates)

means = np.stack([data[labels[:count] == k].mean(axis=0) for k in range(10)])
first = np.stack([data[labels[:count] == k][0] for k in range(10)])
scores = {
    "distilled images": accuracy(lbfgs(blank, images)),
    "means of the classes": accuracy(lbfgs(blank, jnp.asarray(means))),
    "one example a class": accuracy(lbfgs(blank, jnp.asarray(first))),
}
for label, score in scores.items():
    print(f"trained on {label:22} test accuracy {100 * score:.1f} %")

fig, axes = plt.subplots(2, 5, figsize=(8, 3.4))
for k, ax in enumerate(axes.ravel()):
    ax.imshow(images[k].reshape(8, 8), cmap="gray")
    ax.set_title(k, fontsize=9)
    ax.axis("off")
fig.suptitle("The distilled images")
fig.tight_layout()

# %% [markdown]
# ## The claims, asserted

# %%
# 1. Within the theorem's bound, up to rounding; unrolling is worse wherever neither is at rounding.
middle = (errors[:, 0] < 1e-2) & (errors[:, 2] > 1e-9)
assert (errors[:, 1] <= errors[:, 0] / eigenvalues[0] + 1e-9).all()
ratio = errors[middle, 2] / errors[middle, 1]
assert (ratio > 2).all()
assert np.isnan(jax.jacfwd(lambda t: through_the_condition(t, 1, "nan"))(theta)).all()
print(
    f"ridge: at equal error of x, unrolled Jacobians are {np.median(ratio):.0f} times further off"
)

# 2. One condition serves both solvers, and the unrolled derivative is the same.
# Mirror descent has not quite arrived: its implicit derivative is nearer than its unrolled one.
found = [float(slope) for slope in slopes.values()]
if not FAST:
    assert abs(found[1] / found[0] - 1) < 1e-4, found
    assert abs(found[2] / found[0] - 1) < min(0.02, abs(found[3] / found[0] - 1)), found
    assert path[-1, 1] <= 1.02 * min(loss_curve)
assert path[-1, 1] < path[0, 1]
for solver in ("projected gradient", "mirror descent"):
    faster = timings[f"{solver}, unrolled"] / timings[f"{solver}, implicit"]
    print(f"SVM, {solver}: unrolled takes {faster:.1f} times as long as implicit")

# 3. The images are learnt, and their gradient is cheaper.
assert losses[-1] < 0.9 * losses[0]
assert agree < 1e-2
print(f"distillation: unrolled takes {cost_unrolled / cost_implicit:.1f} times as long as implicit")
if not FAST:
    assert scores["distilled images"] > max(
        scores["means of the classes"], scores["one example a class"]
    )
print("all assertions hold")
