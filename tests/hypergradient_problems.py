"""Four bilevel problems with dense float64 hypergradients, for tests and benchmarks.

``golden/hypergradients.npz`` holds scikit-learn's breast cancer (standardised) and digits data,
split in halves, and for each problem x, the inner solution y (Newton to a gradient below 1e-13) and
the hypergradient by a dense solve, checked by finite differences of the value.
"""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FILE = pathlib.Path(__file__).parent / "golden" / "hypergradients.npz"
NAMES = ("ridge_bc", "ridge_bc_ill", "logreg_dig", "clean_dig")


class GoldenProblem(NamedTuple):
    """A problem at its inner solution."""

    outer: Callable
    inner: Callable
    x: jax.Array
    y: jax.Array
    outer_batch: Any
    inner_batch: Any
    hypergradient: np.ndarray  # float64
    smoothness: float  # the largest eigenvalue of the inner Hessian

    @property
    def arguments(self) -> tuple:
        """What ``estimate`` takes."""
        return self[:6]

    def error(self, hypergradient) -> float:
        """The relative error of a hypergradient."""
        difference = np.asarray(hypergradient, np.float64) - self.hypergradient
        return float(np.linalg.norm(difference) / np.linalg.norm(self.hypergradient))


def load(name: str, dtype=jnp.float32) -> GoldenProblem:
    """Builds the problem of a name of ``NAMES``; float64 needs x64.

    ``ridge_bc``, ``ridge_bc_ill``: ridge regression with 30 log-penalties of -2 and -9 (condition
    101 and 5.5e4). ``logreg_dig``: 65 log-penalties of a logistic regression. ``clean_dig``: 898
    weights of training examples, 40 % of them mislabelled.
    """
    with np.load(FILE, allow_pickle=False) as file:
        data = dict(file)

    def half_mean_square(y, batch):
        return 0.5 * jnp.mean((batch[0] @ y - batch[1]) ** 2)

    def cross_entropies(y, batch):
        return -jnp.sum(jax.nn.log_softmax(batch[0] @ y) * batch[1], axis=-1)

    def ridge(x, y, batch):
        return half_mean_square(y, batch) + 0.5 * jnp.sum(jnp.exp(x) * y**2)

    def logistic(x, y, batch):
        penalty = 0.5 * jnp.sum(jnp.exp(x) * jnp.sum(y**2, axis=1))
        return jnp.mean(cross_entropies(y, batch)) + penalty

    def cleaning(x, y, batch):
        weighted = jnp.mean(jax.nn.sigmoid(x) * cross_entropies(y, batch))
        return weighted + 1e-3 * jnp.sum(y**2)

    if name.startswith("ridge"):
        outer, inner = (lambda x, y, b: half_mean_square(y, b)), ridge
        train, held_out = ((data[f"bc_X{s}"], data[f"bc_y{s}"]) for s in "tv")
    else:
        outer = lambda x, y, b: jnp.mean(cross_entropies(y, b))  # noqa: E731
        inner = logistic if name == "logreg_dig" else cleaning
        labels = data["dig_yt" if name == "logreg_dig" else "dig_noisy"]
        train = data["dig_Xt"] / 16, np.eye(10)[labels]
        held_out = data["dig_Xv"] / 16, np.eye(10)[data["dig_yv"]]
    x, y, held_out, train = jax.tree.map(
        lambda a: jnp.asarray(a, dtype), (data[f"{name}_x"], data[f"{name}_y"], held_out, train)
    )
    smoothness = float(data[f"{name}_eig_max"])
    return GoldenProblem(outer, inner, x, y, held_out, train, data[f"{name}_h"], smoothness)
