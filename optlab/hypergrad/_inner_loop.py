"""The inner step that estimators repeat or differentiate: any optax optimizer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optlab.base import PyTree

__all__ = ["InnerOptimizer", "inner_step", "transformation_at"]

# A transformation, or a function of x that makes one: then x may hold its learning rate.
InnerOptimizer = optax.GradientTransformation | Callable[[PyTree], optax.GradientTransformation]


def transformation_at(optimizer: InnerOptimizer, x: PyTree) -> Any:
    """Gives the transformation of an inner optimizer at x; it takes extra arguments."""
    made = optimizer if isinstance(optimizer, optax.GradientTransformation) else optimizer(x)
    return optax.with_extra_args_support(made)


def inner_step(
    optimizer: InnerOptimizer,
    inner: Callable,
    x: PyTree,
    carry: tuple[PyTree, PyTree],
    batch: PyTree,
    guard: str | None = None,
) -> tuple[PyTree, PyTree]:
    """Takes one inner step.

    Args:
        optimizer: see ``InnerOptimizer``.
        inner: the inner objective.
        x: outer variables.
        carry: y and the optimizer's state.
        batch: of the inner objective.
        guard: the mode, "reverse" or "forward", in which derivatives that are not finite count as
            zero where the gradient is exactly zero. One parameter that never had a gradient would
            make the whole hypergradient NaN: the square root of Adam's second moment has an
            infinite derivative there. What diverges has other gradients, and stays NaN.

    Returns:
        The next carry.
    """
    y, state = carry
    value, gradient = jax.value_and_grad(inner, argnums=1)(x, y, batch)
    if guard == "reverse":
        gradient = _guard_cotangents(gradient)
    updates, state = transformation_at(optimizer, x).update(
        gradient, state, y, value=value, grad=gradient, value_fn=lambda y: inner(x, y, batch)
    )
    if guard == "forward":
        updates = _guard_tangents(updates, gradient)
    return optax.apply_updates(y, updates), state


def _without_infinities(derivatives: PyTree, is_zero: PyTree) -> PyTree:
    return jax.tree.map(
        lambda d, z: jnp.where(z & ~jnp.isfinite(d), jnp.zeros_like(d), d), derivatives, is_zero
    )


def _is_zero(gradient: PyTree) -> PyTree:
    return jax.tree.map(lambda g: g == 0, gradient)


# Two identities. Backwards, what is not finite leaves the optimizer where the gradient enters it,
# forwards where the updates come out; no rule serves both, for the clean-up is not linear.
@jax.custom_vjp
def _guard_cotangents(gradient: PyTree) -> PyTree:
    return gradient


# What is kept for the way back, at each step, is a mask rather than the gradient.
_guard_cotangents.defvjp(
    lambda gradient: (gradient, _is_zero(gradient)),
    lambda is_zero, cotangents: (_without_infinities(cotangents, is_zero),),
)


@jax.custom_jvp
def _guard_tangents(updates: PyTree, gradient: PyTree) -> PyTree:
    del gradient
    return updates


@_guard_tangents.defjvp
def _guard_tangents_rule(primals, tangents):
    updates, gradient = primals
    return updates, _without_infinities(tangents[0], _is_zero(gradient))
