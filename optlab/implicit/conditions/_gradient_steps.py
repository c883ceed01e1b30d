"""Conditions that say that a step of a first-order method changes nothing."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from optlab.base import PyTree
from optlab.implicit.conditions._condition import Condition, fixed_point

__all__ = [
    "block_proximal_gradient",
    "mirror_descent",
    "projected_gradient",
    "proximal_gradient",
]


def projected_gradient(
    fun: Callable[..., Any],
    projection: Callable[..., PyTree],
    *,
    step_size: float = 1.0,
    parametric: bool = False,
) -> Condition:
    r"""Of minimising f over a convex set: :math:`F = P(x - \eta \nabla f(x)) - x`.

    Args:
        fun: f, ``fun(x, *args)``, a scalar.
        projection: P, ``projection(v)``: of :mod:`optax.projections` or
            :mod:`optlab.implicit.projections`.
        step_size: :math:`\eta > 0`; any gives the same derivative.
        parametric: ``projection(v, *args)`` instead, for a set that depends on the arguments.

    Returns:
        The condition.

    >>> box = lambda v: jax.numpy.clip(v, 0.0, 1.0)
    >>> F = projected_gradient(lambda x, t: 0.5 * (x - t) ** 2, box)
    >>> float(F(1.0, 3.0))
    0.0

    References:
        M. Blondel et al., "Efficient and Modular Implicit Differentiation", NeurIPS 2022,
        arXiv:2105.15183, equation 9
    """

    def prox(v, step_size, *args):
        del step_size
        return projection(v, *args)

    return proximal_gradient(fun, prox, step_size=step_size, parametric=parametric)


def proximal_gradient(
    fun: Callable[..., Any],
    prox: Callable[..., PyTree],
    *,
    step_size: float = 1.0,
    parametric: bool = False,
) -> Condition:
    r"""Of minimising f + g: :math:`F = \mathrm{prox}_{\eta g}(x - \eta \nabla f(x)) - x`.

    Args:
        fun: f, ``fun(x, *args)``, a scalar.
        prox: ``prox(v, step_size)``, the proximal operator of ``step_size * g``: of
            :mod:`optlab.implicit.prox`.
        step_size: :math:`\eta > 0`; any gives the same derivative.
        parametric: ``prox(v, step_size, *args)`` instead, for a g that depends on the arguments.

    Returns:
        The condition.

    >>> shrink = lambda v, s, t: jax.nn.relu(v - s * t)  # of t x where x >= 0
    >>> F = proximal_gradient(lambda x, t: 0.5 * (x - 3.0) ** 2, shrink, parametric=True)
    >>> float(F(2.0, 1.0))
    0.0

    References:
        M. Blondel et al., "Efficient and Modular Implicit Differentiation", NeurIPS 2022,
        arXiv:2105.15183, equation 7
    """

    def step(x, *args, **kwargs):
        gradient = jax.grad(fun)(x, *args, **kwargs)
        moved = optax.tree.add_scale(x, -step_size, gradient)
        return prox(moved, step_size, *args, **kwargs) if parametric else prox(moved, step_size)

    return fixed_point(step)


def block_proximal_gradient(
    fun: Callable[..., Any], proxes: PyTree, *, step_sizes: PyTree = 1.0, parametric: bool = False
) -> Condition:
    r"""Of minimising f + sum of g_j over blocks: the proximal gradient condition block by block.

    .. math:: F_j = \mathrm{prox}_{\eta_j g_j}(x_j - \eta_j \nabla_j f(x)) - x_j

    Args:
        fun: f, ``fun(x, *args)``, a scalar; x is a tree of blocks.
        proxes: a tree of functions ``prox(v, step_size)``, a prefix of x.
        step_sizes: :math:`\eta_j`, a number or a tree of them like ``proxes``.
        parametric: ``prox(v, step_size, *args)`` instead.

    Returns:
        The condition.

    >>> f = lambda x: 0.5 * (x[0] - 3.0) ** 2 + 0.5 * (x[1] + x[0]) ** 2
    >>> F = block_proximal_gradient(f, (lambda v, s: jax.nn.relu(v), lambda v, s: v))
    >>> [float(r) for r in F((1.5, -1.5))]
    [1.5, 0.0]

    References:
        M. Blondel et al., "Efficient and Modular Implicit Differentiation", NeurIPS 2022,
        arXiv:2105.15183, equation 15
    """
    if isinstance(step_sizes, (int, float)):
        size = step_sizes
        step_sizes = jax.tree.map(lambda _: size, proxes)

    def step(x, *args, **kwargs):
        gradient = jax.grad(fun)(x, *args, **kwargs)
        extra = args if parametric else ()

        def block(prox, size, x, g):
            return prox(optax.tree.add_scale(x, -size, g), size, *extra)

        return jax.tree.map(block, proxes, step_sizes, x, gradient)

    return fixed_point(step)


def mirror_descent(
    fun: Callable[..., Any],
    projection: Callable[..., PyTree],
    mapping: Callable[[PyTree], PyTree],
    *,
    step_size: float = 1.0,
    parametric: bool = False,
) -> Condition:
    r"""The condition :math:`F = P_\varphi(\nabla\varphi(x) - \eta \nabla f(x)) - x`.

    Args:
        fun: f, ``fun(x, *args)``, a scalar.
        projection: :math:`P_\varphi`, from dual coordinates to the set, ``projection(v)``: the
            softmax for the simplex and the entropy.
        mapping: :math:`\nabla\varphi`, to dual coordinates: the logarithm for the entropy.
        step_size: :math:`\eta > 0`.
        parametric: ``projection(v, *args)`` instead.

    Returns:
        The condition.

    >>> jnp = jax.numpy
    >>> F = mirror_descent(lambda x, t: jnp.vdot(x, jnp.log(x) - t), jax.nn.softmax, jnp.log)
    >>> t = jnp.array([0.0, 1.0])
    >>> bool(jnp.allclose(F(jax.nn.softmax(t), t), 0.0, atol=1e-6))
    True

    References:
        M. Blondel et al., "Efficient and Modular Implicit Differentiation", NeurIPS 2022,
        arXiv:2105.15183, equation 13
    """

    def step(x, *args, **kwargs):
        gradient = jax.grad(fun)(x, *args, **kwargs)
        moved = optax.tree.add_scale(mapping(x), -step_size, gradient)
        return projection(moved, *args, **kwargs) if parametric else projection(moved)

    return fixed_point(step)
