"""Conditions of constrained programs: Karush-Kuhn-Tucker, of a quadratic and of a conic program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab.base import PyTree
from optlab.implicit.conditions._condition import Condition

__all__ = ["ConicPoint", "KktPoint", "conic_residual", "kkt", "qp"]


class KktPoint(NamedTuple):
    """A solution and its multipliers; None where there is no such constraint."""

    x: PyTree
    equality: PyTree = None  # like the value of the equality function
    inequality: PyTree = None  # like the value of the inequality function, not negative


def kkt(
    fun: Callable[..., Any],
    *,
    equality: Callable[..., PyTree] | None = None,
    inequality: Callable[..., PyTree] | None = None,
) -> Condition:
    r"""Of minimising f where g(x) = 0 and h(x) <= 0, with multipliers :math:`\nu, \lambda`:

    .. math::
        F = \big(\nabla f + \partial g^\top \nu + \partial h^\top \lambda, \quad g, \quad
        \min(\lambda, -h)\big)

    The last part is zero exactly where :math:`\lambda \ge 0`, :math:`h \le 0` and
    :math:`\lambda h = 0`; so a solution of an inequality written with the wrong sign is no root.

    Args:
        fun: f, ``fun(x, *args)``, a scalar.
        equality: g, ``equality(x, *args)``, a pytree that is zero; None for none.
        inequality: h, ``inequality(x, *args)``, a pytree that is at most zero; None for none.

    Returns:
        The condition on a :class:`KktPoint`. Where its values are known, as outside ``jit``, a
        point with a violated inequality or a negative multiplier raises.

    Raises:
        ValueError: when such a point is checked.

    >>> F = kkt(lambda x, t: (x - t) ** 2, inequality=lambda x, t: x - 1.0)
    >>> float(F(KktPoint(1.0, None, 4.0), 3.0).x)
    0.0

    References:
        M. Blondel et al., "Efficient and Modular Implicit Differentiation", NeurIPS 2022,
        arXiv:2105.15183, section 2.2

    Differs from the paper: its complementarity is the product, which does not see signs.
    """

    def residual(point, *args, **kwargs):
        def lagrangian(x):
            value = fun(x, *args, **kwargs)
            for function, dual in ((equality, point.equality), (inequality, point.inequality)):
                if function is not None:
                    value = value + optax.tree.vdot(dual, function(x, *args, **kwargs))
            return value

        gap = feasible = None
        if equality is not None:
            feasible = equality(point.x, *args, **kwargs)
        if inequality is not None:
            value = inequality(point.x, *args, **kwargs)
            gap = jax.tree.map(lambda l, h: jnp.minimum(l, -h), point.inequality, value)
        return KktPoint(jax.grad(lagrangian)(point.x), feasible, gap)

    def check(point, *args, **kwargs):
        if inequality is None:
            return
        value = inequality(point.x, *args, **kwargs)
        for leaf, dual in zip(
            jax.tree.leaves(value), jax.tree.leaves(point.inequality), strict=True
        ):
            slack = 1e-3 * (1 + jnp.max(jnp.abs(leaf), initial=0.0))
            if jnp.any(leaf > slack):
                raise ValueError(
                    f"inequality must be at most zero at the solution, but reaches"
                    f" {float(jnp.max(leaf)):.3g}: has it the wrong sign?"
                )
            if jnp.any(dual < -1e-3 * (1 + jnp.max(jnp.abs(dual), initial=0.0))):
                raise ValueError(
                    "inequality's multipliers must not be negative, but one is"
                    f" {float(jnp.min(dual)):.3g}: has the inequality the wrong sign?"
                )

    return Condition(residual, check=check)


def qp() -> Condition:
    r"""The KKT conditions of :math:`\min \tfrac12 x^\top Q x + c^\top x` where Ax = b, Gx <= h.

    Returns:
        The condition ``F(point, Q, c, A, b, G, h)`` on a :class:`KktPoint`, Q symmetric; A and b,
        or G and h, may be None.

    >>> point = KktPoint(jnp.array([1.0]), None, jnp.array([2.0]))
    >>> F = qp()(point, jnp.eye(1), jnp.array([-3.0]), None, None, jnp.eye(1), jnp.array([1.0]))
    >>> float(F.x[0]), float(F.inequality[0])
    (0.0, 0.0)

    References:
        B. Amos, J. Kolter, "OptNet: Differentiable Optimization as a Layer in Neural Networks",
        ICML 2017, arXiv:1703.00443
    """

    def residual(point, Q, c, A=None, b=None, G=None, h=None):
        gradient = Q @ point.x + c
        feasible = gap = None
        if A is not None:
            gradient = gradient + A.T @ point.equality
            feasible = A @ point.x - b
        if G is not None:
            gradient = gradient + G.T @ point.inequality
            gap = jnp.minimum(point.inequality, h - G @ point.x)
        return KktPoint(gradient, feasible, gap)

    return Condition(residual)


class ConicPoint(NamedTuple):
    """A solution of a conic program: z, and v whose two Moreau parts are dual and slack."""

    z: jax.Array  # shape=[n]
    v: jax.Array  # shape=[m]; the dual is its projection on the dual cone, the slack dual - v


def conic_residual(project_dual: Callable[[jax.Array], jax.Array]) -> Condition:
    r"""The residual map of :math:`\min c^\top z` where Ez + s = d, s in a cone K.

    .. math::
        F = \big(E^\top \Pi v + c, \quad d - E z - (\Pi v - v)\big), \qquad y = \Pi v, \;
        s = \Pi v - v

    Args:
        project_dual: :math:`\Pi`, the projection on the dual cone of K.

    Returns:
        The condition ``F(point, c, E, d)`` on a :class:`ConicPoint`.

    >>> F = conic_residual(lambda v: jnp.maximum(v, 0.0))  # the orthant: z = 2 minimises z >= 2
    >>> point = ConicPoint(jnp.array([2.0]), jnp.array([1.0]))
    >>> F(point, jnp.array([1.0]), jnp.array([[-1.0]]), jnp.array([-2.0])).v.tolist()
    [0.0]

    References:
        A. Agrawal, S. Barratt, S. Boyd, E. Busseti, W. Moursi, "Differentiating through a Cone
        Program", J. Appl. Numer. Optim. 2019, arXiv:1904.09043

    Differs from the paper: the homogeneous embedding is normalised to w = 1 and its redundant last
    row left out, so that the Jacobian is square and regular rather than solved in least squares.
    """

    def residual(point, c, E, d):
        dual = project_dual(point.v)
        return ConicPoint(E.T @ dual + c, d - E @ point.z - (dual - point.v))

    return Condition(residual)
