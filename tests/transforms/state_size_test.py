"""Every docstring's formula of the state's size, read and compared with the state."""

import inspect
import re

import jax
import jax.numpy as jnp
import pytest

from optlab import catalog
from optlab.transforms.low_rank import SpectralFactors

M, N, RANK = 48, 80, 5
STATELESS = {
    "tract_dense": "a layer",
    "lora_sb": "finds params, see its own test",
    "sso": "a solver, see its own test",
}
ROWS = {
    row.name: row
    for row in catalog.METHODS
    if row.family.startswith("transforms.")
    and row.family != "transforms.quantized"
    and row.name not in STATELESS
}
# What a letter of a formula is called among the arguments; m is the shorter side.
LETTERS = {"r": "rank", "s": "history", "w": "history", "h": "history"}


def documented(function):
    """The formula in the docstring of a factory, or of a function that it points to."""
    texts = [inspect.getdoc(function)]
    module = inspect.getmodule(function)
    for name in re.findall(r":func:`~?(?:[\w.]*\.)?(\w+)`", texts[0]):
        texts.append(inspect.getdoc(getattr(module, name, None)) or "")
    for text in texts:
        if found := re.search(r"\bcosts ([^.]+?) numbers? of state", " ".join(text.split())):
            return found[1]
    raise AssertionError("no docstring says what a leaf costs in numbers of state")


def evaluated(formula, **sizes):
    """The value of a formula such as ``(m + 2 n) r + r^2``."""
    times = re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", formula)
    return eval(times.replace("^", "**"), {"min": min}, sizes)


def leaf(name):
    """One matrix, or what the method has in its place."""
    if name == "sparse_spectral":
        return SpectralFactors(u=jnp.zeros((M, M)), s=jnp.zeros(M), v=jnp.zeros((N, M)))
    bias = {"bias": jnp.zeros(N)} if name.startswith("mkor") else {}
    return {"kernel": jnp.zeros((M, N)), **bias}


@pytest.mark.parametrize("name", ROWS)
def test_a_leaf_costs_what_the_docstring_says(name):
    row, factory = ROWS[name], ROWS[name].factory()
    rank = {"rank": RANK} if "rank" in row.arguments else {}
    call = inspect.signature(factory).bind_partial(**{**row.arguments, **rank})
    call.apply_defaults()
    tx = factory(**{**row.arguments, **rank})

    def numbers(leaves):
        state = jax.eval_shape(tx.init, {str(i): leaf(name) for i in range(leaves)})
        return sum(x.size for x in jax.tree.leaves(state))

    sizes = {k: call.arguments[v] for k, v in LETTERS.items() if v in call.arguments}
    formula = documented(factory)
    # What a second leaf adds: counters and the like, of which there is one, cancel.
    assert numbers(2) - numbers(1) == evaluated(formula, m=M, n=N, d=min(M, N), **sizes), formula
