"""Four bilevel problems on real data whose hypergradients are known to rounding."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["HYPERGRADIENT_PROBLEMS", "HypergradientProblem", "hypergradient_problem"]

HYPERGRADIENT_PROBLEMS = ("ridge_bc", "ridge_bc_ill", "logreg_dig", "clean_dig")
_FILE = pathlib.Path(__file__).parent / "hypergradients.npz"


class HypergradientProblem(NamedTuple):
    """A bilevel problem at the solution of its inner one."""

    outer: Callable  # (x, y, batch) -> scalar
    inner: Callable  # (x, y, batch) -> scalar
    x: jax.Array
    y: jax.Array  # the inner solution
    outer_batch: Any
    inner_batch: Any
    hypergradient: np.ndarray  # like x, float64
    smoothness: float  # the largest eigenvalue of the inner Hessian

    @property
    def arguments(self) -> tuple:
        """What the ``estimate`` of :mod:`optlab.hypergrad` takes."""
        return self[:6]

    def error(self, hypergradient: jax.Array) -> float:
        """The relative error of a hypergradient."""
        difference = np.asarray(hypergradient, np.float64) - self.hypergradient
        return float(np.linalg.norm(difference) / np.linalg.norm(self.hypergradient))


def hypergradient_problem(name: str, dtype: Any = jnp.float32) -> HypergradientProblem:
    r"""A problem that tells how far off an estimate of its hypergradient is.

    The inner solution is Newton's, to a gradient below 1e-13, and the hypergradient that of a dense
    float64 solve; it agrees with finite differences of the value.

    ============== ========= ========= ========= ==============================================
    name           x         y         condition the outer variables x are
    ============== ========= ========= ========= ==============================================
    ridge_bc       [30]      [30]      101       log-penalties of a ridge regression, at -2
    ridge_bc_ill   [30]      [30]      5.5e4     the same, at -9
    logreg_dig     [65]      [65, 10]  55        log-penalties of a logistic regression, at -4
    clean_dig      [898]     [65, 10]  277       weights of examples, 40 % of them mislabelled
    ============== ========= ========= ========= ==============================================

    Args:
        name: of the table, or of ``HYPERGRADIENT_PROBLEMS``.
        dtype: of all arrays; float64 needs x64.

    Returns:
        The problem with its data.

    Raises:
        ValueError: if the name is unknown.

    >>> problem = hypergradient_problem("ridge_bc")
    >>> problem.x.shape, round(problem.error(1.1 * problem.hypergradient), 3)
    ((30,), 0.1)

    References:
        The data are those that scikit-learn has, in halves: W. Wolberg, O. Mangasarian, N. Street,
        W. Street, "Breast Cancer Wisconsin (Diagnostic)", UCI 1993 (``_bc``, standardised);
        E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI 1998 (``_dig``).
    """
    if name not in HYPERGRADIENT_PROBLEMS:
        raise ValueError(f"name must be one of {', '.join(HYPERGRADIENT_PROBLEMS)}, got {name!r}.")
    with np.load(_FILE, allow_pickle=False) as file:
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
    return HypergradientProblem(outer, inner, x, y, held_out, train, data[f"{name}_h"], smoothness)
