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
# # Optimizer states in eight bits
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/optlab/optlab/blob/main/notebooks/eight_bit.ipynb)
#
# T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, *8-bit Optimizers via Block-wise
# Quantization*, ICLR 2022, [arXiv:2110.02861](https://arxiv.org/abs/2110.02861).
#
# **The claims that this notebook checks.** Adam's moments can be kept in eight bits an entry, with
# a scale for each block of 256 of them: training goes as with 32 bits, and the state takes a
# quarter of the memory. To these it adds two of our own. The memory is only saved if no float32
# copy of the state is made on the way, which the compiler can be asked. And what makes an eight-bit
# Adam fail is not its mean error but a second moment that is rounded to zero.

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

import optlab
from optlab import codecs
from optlab.transforms import quantized

# The tests run this notebook at a tiny size; the claims must hold there too.
FAST = bool(os.environ.get("FAST"))

# %% [markdown]
# ## What the compiler says of memory
#
# A step on 16 million parameters, compiled but not run. The state is what lies in memory between
# steps; temporaries come and go within one. A transform that decodes its state, updates it and
# codes it again keeps all of it in float32 for a moment, and the peak is higher than without codes.
# `optlab.step` goes through parameters and state in chunks and writes them where they were.

# %%
LEAVES = 4 if FAST else 16
params = {f"w{i}": jax.ShapeDtypeStruct((1024, 1024), jnp.float32) for i in range(LEAVES)}
size = LEAVES * 2**20


def bytes_of(tx, in_place=True):
    """Bytes a parameter: of the state, and of what a step needs beside it."""
    state = jax.eval_shape(tx.init, params)
    if not in_place:  # without its step, only the pair of functions that optax knows is left
        tx = optax.GradientTransformationExtraArgs(tx.init, tx.update)
    step = jax.jit(lambda p, g, s: optlab.step(tx, p, g, s), donate_argnums=(0, 2))
    memory = step.lower(params, params, state).compile().memory_analysis()
    return quantized.state_bytes(state) / size, memory.temp_size_in_bytes / size


memory = {
    "optax.adamw": bytes_of(optax.adamw(1e-3)),
    "adamw8bit, plain update": bytes_of(optlab.adamw8bit(1e-3), in_place=False),
    "adamw8bit": bytes_of(optlab.adamw8bit(1e-3)),
    "lion8bit": bytes_of(optlab.lion8bit(1e-3)),
    "adamw4bit": bytes_of(optlab.adamw4bit(1e-3)),
}
print(f"{'bytes a parameter':25}{'state':>7}{'+ step':>8}{'= peak':>8}")
for name, (state, temporary) in memory.items():
    print(f"{name:25}{state:7.2f}{temporary:8.2f}{state + temporary:8.2f}")

# %% [markdown]
# ## What codecs do to Adam's step
#
# The second moments of a block may span one decade, or eight. Both moments go through a codec and
# back, and the step $m / \sqrt{v}$ that comes out is compared with the exact one: relative to its
# length, and in its largest entry.

# %%
NAMES = ["power8", "adaptive_power8", "flash8", "coat8", "dynamic8", "float8", "linear8"]
UNSAFE = "dynamic8(safe_zero=False)"


def step_error(name, decades, seed=0):
    """The relative error of a step, and the largest error of an entry of about one."""
    rng = np.random.default_rng(seed)
    root = 10.0 ** (0.5 * rng.uniform(-decades, 0, size=(64, 256)))
    m = jnp.asarray(root * rng.normal(size=root.shape), jnp.float32)
    v = jnp.asarray(root**2, jnp.float32)
    first, second = codecs.get(name), codecs.get(name, signed=False)
    new_m, new_v = first.decode(first.encode(m)), second.decode(second.encode(v))
    exact = m / jnp.sqrt(v)
    error = new_m / (jnp.sqrt(new_v) + 1e-8) - exact
    return float(jnp.linalg.norm(error) / jnp.linalg.norm(exact)), float(jnp.abs(error).max())


DECADES = range(9)
errors = {name: [step_error(name, d)[0] for d in DECADES] for name in [*NAMES, UNSAFE]}
fig, ax = plt.subplots(figsize=(7, 4))
for name, error in errors.items():
    ax.semilogy(DECADES, error, "k--" if name == UNSAFE else "-", label=name)
ax.set(xlabel="decades that a block's second moments span", ylabel="relative error of the step")
ax.legend(frameon=False, fontsize=8)
fig.tight_layout()

# %% [markdown]
# The dashed line is the map of bitsandbytes as it is: once a block spans seven decades, some second
# moments are coded as zero beneath a first moment that is not, and the step divides by `eps`. Our
# codecs never code a positive second moment as zero.

# %% [markdown]
# ## Training
#
# A perceptron on digits, with the same first parameters and the same batches for each optimizer.

# %%
STEPS = 60 if FAST else 400
digits = load_digits()
images = jnp.asarray(digits.data, jnp.float32) / 16.0
labels = jnp.asarray(digits.target)
batches = jnp.asarray(np.random.default_rng(0).integers(0, len(images), (STEPS, 64)))


def init(key, widths=(64, 256, 256, 10)):
    keys = jax.random.split(key, len(widths) - 1)
    return [
        {"w": jax.random.normal(k, (n, m)) * jnp.sqrt(2 / n), "b": jnp.zeros((1, m))}
        for k, n, m in zip(keys, widths, widths[1:], strict=False)
    ]


def loss(params, rows):
    x = images[rows]
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    logits = x @ params[-1]["w"] + params[-1]["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()


def train(tx):
    """The loss of each batch before its step."""

    def step(carry, rows):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, rows)
        return optlab.step(tx, params, grads, state), value

    start = init(jax.random.key(0))
    run = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), batches)[1])
    return np.asarray(run(start))


curves = {
    "float32": train(optax.adamw(1e-3)),
    "power8": train(optlab.adamw8bit(1e-3, min_size=1)),
    "dynamic8": train(optlab.adamw8bit(1e-3, codec="dynamic8", min_size=1)),
    "4 bits": train(optlab.adamw4bit(1e-3, min_size=1)),
}
smooth = np.ones(10) / 10
fig, ax = plt.subplots(figsize=(7, 3.5))
for name, curve in curves.items():
    ax.semilogy(np.convolve(curve, smooth, "valid"), label=name)
ax.set(xlabel="step", ylabel="loss, mean of ten batches")
ax.legend(frameon=False)
fig.tight_layout()

# %% [markdown]
# ## The claims, asserted

# %%
if not FAST:  # the chunk weighs more on fewer parameters
    assert sum(memory["adamw8bit"]) <= 2.3
    assert sum(memory["lion8bit"]) <= 1.2
    assert sum(memory["adamw4bit"]) <= 1.3
assert sum(memory["adamw8bit"]) < 0.5 * sum(memory["optax.adamw"])
assert sum(memory["adamw8bit, plain update"]) > sum(memory["optax.adamw"])
for name in ("adamw8bit", "optax.adamw"):
    print(f"{name}: {sum(memory[name]):.2f} bytes a parameter at the peak")

mild = zip(errors["power8"][:3], errors["dynamic8"][:3], strict=True)
assert all(ours < 0.75 * theirs for ours, theirs in mild)
worst = {name: step_error(name, 8)[1] for name in ("power8", "dynamic8", UNSAFE)}
assert worst["power8"] < 5 < 1e3 < worst[UNSAFE]
print("largest error of an entry over eight decades:", {n: f"{w:.2g}" for n, w in worst.items()})

ends = {name: curve[-STEPS // 4 :].mean() for name, curve in curves.items()}
for name in ("power8", "dynamic8"):
    assert abs(ends[name] - ends["float32"]) < 0.1 * ends["float32"] + 1e-3, name
print("loss over the last quarter:", {name: f"{end:.4f}" for name, end in ends.items()})
