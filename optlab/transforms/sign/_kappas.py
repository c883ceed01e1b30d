r"""Convex functions for Lion-K: each with its value, a subgradient and its conjugate.

A :class:`Kappa` acts on whole pytrees. Most are sums over leaves of a function of one leaf, which
:func:`per_leaf` lifts.
"""

import ast
import dataclasses
import functools
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp

from optlab._arithmetic import wide
from optlab._checks import check_count, check_range
from optlab._sharding import gathered
from optlab.base import PyTree, Scalar
from optlab.linalg import newton_schulz, normalize, orthogonal_factor, safe_norm

__all__ = [
    "Kappa",
    "deadzone",
    "get_kappa",
    "group_l2",
    "huber",
    "l1",
    "l2",
    "lp",
    "nuclear",
    "per_leaf",
    "top_k",
]


@dataclasses.dataclass(frozen=True)
class Kappa:
    r"""A convex function :math:`\kappa` of a pytree, :math:`\kappa(0) = 0`, as data.

    Attributes:
        name: what to call it.
        value: :math:`m \mapsto \kappa(m)`, a scalar.
        subgradient: :math:`m \mapsto u \in \partial \kappa(m)`, a pytree like m; zero at zero.
        conjugate: :math:`y \mapsto \kappa^*(y) = \sup_m \langle m, y \rangle - \kappa(m)`, a
            scalar, which may be inf. Lion-K minimises :math:`f(x) + \kappa^*(\lambda x) / \lambda`.
            None where it is not known: training does not need it, the Lyapunov function does.
    """

    name: str
    value: Callable[[PyTree], Scalar]
    subgradient: Callable[[PyTree], PyTree]
    conjugate: Callable[[PyTree], Scalar] | None = None


def per_leaf(
    name: str,
    value: Callable[[jax.Array], Scalar],
    subgradient: Callable[[jax.Array], jax.Array],
    conjugate: Callable[[jax.Array], Scalar] | None = None,
) -> Kappa:
    """Lifts a convex function of one array to a :class:`Kappa`: the sum over all leaves.

    Args:
        name: what to call it.
        value: the function of one leaf of any shape, to a scalar.
        subgradient: one subgradient of it, an array like the leaf.
        conjugate: its convex conjugate, or None.

    Returns:
        The kappa. Leaves of size zero count as zero and are passed through.

    >>> half_square = per_leaf("half square", lambda x: 0.5 * jnp.sum(x**2), lambda x: x)
    >>> float(half_square.value({"a": jnp.ones(2), "b": jnp.ones(3)}))
    2.5
    """

    def total(leaf_function):
        def tree_function(tree):
            terms = [leaf_function(wide(x)) for x in jax.tree.leaves(tree) if x.size]
            return sum(terms, start=jnp.zeros((), jnp.float32))

        return tree_function

    def tree_subgradient(tree):
        return jax.tree.map(lambda x: subgradient(x) if x.size else x, tree)

    return Kappa(name, total(value), tree_subgradient, total(conjugate) if conjugate else None)


def _indicator(*gauges: Scalar) -> Scalar:
    """Zero where all gauges are at most one, up to rounding; inf elsewhere."""
    largest = functools.reduce(jnp.maximum, gauges)
    return jnp.where(largest <= 1 + 64 * jnp.finfo(largest.dtype).eps, 0.0, jnp.inf).astype(
        largest.dtype
    )


def _max_abs(x: jax.Array) -> Scalar:
    return jnp.max(jnp.abs(x), initial=0.0)


def l1() -> Kappa:
    r""":math:`\|m\|_1`: the sign. Lion; keeps :math:`\|x\|_\infty \le 1/\lambda`.

    Returns:
        The kappa, with sign(0) = 0.

    >>> l1().subgradient(jnp.array([-2.0, 0.0])).tolist()
    [-1.0, 0.0]
    """
    return per_leaf(
        "l1", lambda x: jnp.sum(jnp.abs(x)), jnp.sign, lambda y: _indicator(_max_abs(y))
    )


def l2(*, global_norm: bool = False) -> Kappa:
    r""":math:`\|m\|_2`: the direction of unit norm; keeps :math:`\|x\|_2 \le 1/\lambda`.

    Args:
        global_norm: take the norm over the whole pytree, instead of one for each leaf.

    Returns:
        The kappa.

    >>> bool(jnp.allclose(l2().subgradient(jnp.array([3.0, 4.0])), jnp.array([0.6, 0.8])))
    True
    """
    if not global_norm:
        return per_leaf(
            "l2",
            safe_norm,
            lambda x: normalize(x, safe_norm(x)),
            lambda y: _indicator(safe_norm(y)),
        )

    def norm(tree):
        norms = [safe_norm(wide(x)) for x in jax.tree.leaves(tree) if x.size]
        return safe_norm(jnp.stack(norms)) if norms else jnp.zeros(())

    def subgradient(tree):
        total = norm(tree)
        return jax.tree.map(lambda x: normalize(x, total.astype(x.dtype)), tree)

    return Kappa("l2(global_norm=True)", norm, subgradient, lambda tree: _indicator(norm(tree)))


def lp(p: float) -> Kappa:
    r""":math:`\|m\|_p`; keeps :math:`\|x\|_q \le 1/\lambda` with :math:`1/p + 1/q = 1`.

    Args:
        p: in (1, inf).

    Returns:
        The kappa; its subgradient is :math:`\operatorname{sign}(m) (|m| / \|m\|_p)^{p-1}`, for each
        leaf.

    Raises:
        ValueError: if ``p`` is out of range.

    >>> bool(jnp.allclose(lp(2.0).subgradient(jnp.array([3.0, 4.0])), jnp.array([0.6, 0.8])))
    True
    """
    check_range("p", p, 1.0, float("inf"), closed="()")

    def subgradient(x):
        return jnp.sign(x) * jnp.abs(normalize(x, safe_norm(x, ord=p))) ** (p - 1)

    return per_leaf(
        f"lp({p})",
        functools.partial(safe_norm, ord=p),
        subgradient,
        lambda y: _indicator(safe_norm(y, ord=p / (p - 1))),
    )


def huber(e: float) -> Kappa:
    r"""Huber's function over e, elementwise: :math:`m^2 / 2e` up to e, then :math:`|m| - e/2`.

    The update is :math:`\operatorname{clip}(m, -e, e) / e`; Lion-K then minimises
    :math:`f(x) + (e \lambda / 2) \|x\|_2^2` subject to :math:`\|x\|_\infty \le 1/\lambda`.

    Args:
        e: positive, in units of the gradient.

    Returns:
        The kappa.

    Raises:
        ValueError: if ``e`` is not positive.

    >>> huber(0.5).subgradient(jnp.array([0.25, -2.0])).tolist()
    [0.5, -1.0]
    """
    check_range("e", e, 0.0, float("inf"), closed="()")

    def value(x):
        a = jnp.abs(x)
        return jnp.sum(jnp.where(a <= e, 0.5 * a * (a / e), a - 0.5 * e))

    return per_leaf(
        f"huber({e})",
        value,
        lambda x: jnp.clip(x, -e, e) / e,
        lambda y: 0.5 * e * jnp.sum(y * y) + _indicator(_max_abs(y)),
    )


def deadzone(e: float) -> Kappa:
    r""":math:`\sum_i \max(|m_i| - e, 0)`: the sign of the entries beyond e, zero for the others.

    Lion-K then minimises :math:`f(x) + e \|x\|_1` subject to :math:`\|x\|_\infty \le 1/\lambda`.

    Args:
        e: not negative, in units of the gradient.

    Returns:
        The kappa.

    Raises:
        ValueError: if ``e`` is negative.

    >>> deadzone(0.5).subgradient(jnp.array([0.25, -2.0])).tolist()
    [0.0, -1.0]
    """
    check_range("e", e, 0.0, float("inf"))
    return per_leaf(
        f"deadzone({e})",
        lambda x: jnp.sum(jnp.maximum(jnp.abs(x) - e, 0)),
        lambda x: jnp.where(jnp.abs(x) <= e, 0, jnp.sign(x)),
        lambda y: e * jnp.sum(jnp.abs(y)) + _indicator(_max_abs(y)),
    )


def top_k(k: int) -> Kappa:
    r"""The sum of the k largest :math:`|m_i|` of each leaf: their signs, zero for the others.

    Keeps :math:`\|x\|_\infty \le 1/\lambda` and :math:`\|x\|_1 \le k/\lambda`.

    Args:
        k: at least one; leaves of at most k entries are treated as by :func:`l1`.

    Returns:
        The kappa. Of equal entries the first count, so that never more than k are chosen.

    Raises:
        ValueError: if ``k`` is less than one.

    >>> top_k(1).subgradient(jnp.array([0.5, -2.0, 1.0])).tolist()
    [0.0, -1.0, 0.0]
    """
    check_count("k", k, 1)

    def largest(x):
        return jax.lax.top_k(jnp.abs(x).ravel(), min(k, x.size))

    @gathered
    def value(x):
        return jnp.sum(largest(x)[0])

    @gathered
    def subgradient(x):
        if x.size <= k:
            return jnp.sign(x)
        _, chosen = largest(x)
        signs = jnp.sign(x).ravel()
        return jnp.zeros_like(signs).at[chosen].set(signs[chosen]).reshape(x.shape)

    return per_leaf(
        f"top_k({k})",
        value,
        subgradient,
        lambda y: _indicator(_max_abs(y), jnp.sum(jnp.abs(y)) / k),
    )


def group_l2(axis: int | tuple[int, ...] = -1) -> Kappa:
    r"""The sum of the 2-norms of groups, which lie along ``axis``: each is brought to unit norm.

    Keeps every group's :math:`\|x_g\|_2 \le 1/\lambda`. With the default each row of a matrix is a
    group, and a vector is one.

    Args:
        axis: the axes within a group, as for ``jnp.sum``. Scalars are groups of their own.

    Returns:
        The kappa.

    Raises:
        ValueError: when used on a leaf that has no such axis.

    >>> group_l2().subgradient(jnp.array([[3.0, 0.0], [0.0, -4.0]])).tolist()
    [[1.0, 0.0], [0.0, -1.0]]
    """
    wanted = (axis,) if isinstance(axis, int) else tuple(axis)

    def norms(x):
        if x.ndim == 0:
            return jnp.abs(x)
        if any(not -x.ndim <= a < x.ndim for a in wanted):
            raise ValueError(
                f"axis {axis} of group_l2 is out of range for a leaf of shape {x.shape}."
            )
        return safe_norm(x, axis=wanted, keepdims=True)

    return per_leaf(
        "group_l2" if axis == -1 else f"group_l2({axis})",
        lambda x: jnp.sum(norms(x)),
        lambda x: normalize(x, norms(x)),
        lambda y: _indicator(jnp.max(norms(y))),
    )


def nuclear(*, method: str = "newton_schulz", steps: int = 5, polish: int = 3) -> Kappa:
    r"""The sum of singular values: the orthogonal factor :math:`U V^\top`; Muon with decay.

    Keeps the spectral norm of each matrix at most :math:`1/\lambda`; without polish, at most 1.21
    times that.

    A leaf of more than two axes is the matrix of shape ``[-1, last]``, which suits kernels stored
    as (height, width, in, out); a vector or a scalar is a matrix of one column, on which the
    nuclear norm is the 2-norm.

    Args:
        method: ``"newton_schulz"``, matrix products only, in which singular values far below 0.001
            of the Frobenius norm are lifted part of the way; or ``"svd"``, exact
            and slow on accelerators.
        steps: see :func:`optlab.linalg.newton_schulz`; five.
        polish: see there; three reach rounding, and zero is Muon's own approximation.

    Returns:
        The kappa. Its value and conjugate always use singular values.

    Raises:
        ValueError: if ``method`` is unknown.

    >>> nuclear().subgradient(jnp.diag(jnp.array([5.0, -2.0]))).round(3).tolist()
    [[1.0, 0.0], [0.0, -1.0]]

    References:
        L. Chen, J. Li, Q. Liu, "Muon Optimizes Under Spectral Norm Constraints", 2025,
        arXiv:2506.15054
    """
    if method not in ("newton_schulz", "svd"):
        raise ValueError(f"method must be 'newton_schulz' or 'svd', got {method!r}.")
    check_count("steps", steps, 0)
    check_count("polish", polish, 0)
    options = "" if (steps, polish) == (5, 3) else f"(steps={steps}, polish={polish})"

    def matrix(x):
        return x.reshape(-1, x.shape[-1] if x.ndim > 1 else 1)

    @gathered
    def value(x):
        return jnp.linalg.norm(matrix(x), ord="nuc")

    @gathered
    def conjugate(y):
        return _indicator(jnp.linalg.norm(matrix(y), ord=2))

    @gathered
    def subgradient(x):
        if x.ndim < 2:
            return normalize(x, safe_norm(x))
        if method == "svd":
            return orthogonal_factor(matrix(x)).reshape(x.shape)
        return newton_schulz(matrix(x), steps=steps, polish=polish).reshape(x.shape)

    return per_leaf(
        "nuclear(method='svd')" if method == "svd" else "nuclear" + options,
        value,
        subgradient,
        conjugate,
    )


_CONSTRUCTORS = {f.__name__: f for f in (deadzone, group_l2, huber, l1, l2, lp, nuclear, top_k)}


def get_kappa(kappa: Kappa | str) -> Kappa:
    """Reads a kappa from its text, as configs hold it.

    Args:
        kappa: a name, or a call with literal arguments such as ``"huber(0.1)"``; a :class:`Kappa`
            is given back.

    Returns:
        The kappa.

    Raises:
        ValueError: if the text is not such a call, or its name is unknown.

    >>> get_kappa("huber(0.1)").name
    'huber(0.1)'
    """
    if isinstance(kappa, Kappa):
        return kappa
    try:
        node = ast.parse(kappa, mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
        constructor = _CONSTRUCTORS[ast.unparse(call.func)]
        args = [ast.literal_eval(a) for a in call.args]
        kwargs = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        inspect.signature(constructor).bind(*args, **kwargs)
    except (KeyError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(
            "kappa must be a Kappa or the text of a call with literal arguments, such as "
            f"'huber(0.1)', of one of {', '.join(sorted(_CONSTRUCTORS))}; got {kappa!r}."
        ) from error
    return constructor(*args, **kwargs)
