"""DoG: the distance moved, over the root of the summed squared gradients, is the step size."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import cast_like, wide
from optlab._checks import check_range
from optlab.linalg import global_norm, safe_norm
from optlab.transforms.learning_rate_free._shared import dot, scalar

__all__ = ["ScaleByDogState", "dog", "ldog", "scale_by_dog"]


class ScaleByDogState(NamedTuple):
    """State of :func:`scale_by_dog`: 4 m n bytes for an m x n matrix in float32.

    With ``layerwise`` the two numbers are trees like params, of scalars.
    """

    start: optax.Params  # like params: a copy of the first ones
    distance: Any  # shape=(), dtype=float32 or wider: the largest distance from the start
    squares: Any  # shape=(), dtype=float32 or wider: the summed squares of the gradients


def scale_by_dog(
    *, reps_rel: float = 1e-6, eps: float = 1e-8, layerwise: bool = False
) -> optax.GradientTransformation:
    r"""Multiplies the gradient by the distance moved over the root of the summed squares.

    .. math::
        \bar r_t = \max(\bar r_{t-1}, \|x_t - x_0\|), \quad \bar r_0 = r (1 + \|x_0\|), \qquad
        u_t = g_t \bar r_t \Big/ \sqrt{\epsilon + \textstyle\sum_{k \le t} \|g_k\|^2}

    Args:
        reps_rel: r, the first distance relative to the norm of the params; positive. 1e-4 is better
            with batch normalisation.
        eps: added to the sum of squares, positive.
        layerwise: one step size a leaf, instead of one for the whole tree.

    Returns:
        A transformation; its updates have the gradients' dtypes, its ``update`` needs ``params``.
        NaN and inf propagate. Params in bfloat16 round away its first steps: keep float32 ones.

    Raises:
        ValueError: if ``reps_rel`` or ``eps`` is not positive, or params are missing.

    >>> params = {"w": jnp.array([3.0, -4.0])}
    >>> tx = scale_by_dog(reps_rel=0.1)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> bool(jnp.allclose(updates["w"], jnp.array([0.36, -0.48])))
    True

    References:
        M. Ivgi, O. Hinder, Y. Carmon, "DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size
        Schedule", ICML 2023, arXiv:2302.12022

    Differs from the paper: eps is added, as the released code does. Differs from that code: the
    first step size cannot be given; zero gradients are no error. Differs from
    ``optax.contrib.dog``: the state copies the params, which can thus be donated, and its two
    numbers are float32 even where the params are not.
    """
    check_range("reps_rel", reps_rel, 0.0, math.inf, closed="()")
    check_range("eps", eps, 0.0, math.inf, closed="()")

    def norm(tree):
        return jax.tree.map(safe_norm, tree) if layerwise else global_norm(tree)

    def square(tree):
        return jax.tree.map(lambda x: jnp.sum(x * x), tree) if layerwise else dot(tree, tree)

    def init(params):
        distance = jax.tree.map(lambda r: reps_rel * (1.0 + r), norm(wide(params)))
        return ScaleByDogState(
            start=jax.tree.map(jnp.copy, params),
            distance=distance if layerwise else scalar(distance, params),
            squares=jax.tree.map(lambda r: jnp.full_like(r, eps), distance)
            if layerwise
            else scalar(eps, params),
        )

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("params must be given to the update.")
        g = wide(updates)
        moved = jax.tree.map(jnp.subtract, wide(params), wide(state.start))
        distance = jax.tree.map(jnp.maximum, state.distance, norm(moved))
        squares = jax.tree.map(jnp.add, state.squares, square(g))
        rate = jax.tree.map(lambda r, s: r / jnp.sqrt(s), distance, squares)
        rates = rate if layerwise else jax.tree.map(lambda _: rate, g)
        new_updates = jax.tree.map(lambda u, g, r: (r * g).astype(u.dtype), updates, g, rates)
        return new_updates, cast_like(ScaleByDogState(state.start, distance, squares), state)

    return optax.GradientTransformation(init, update)


def dog(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    reps_rel: float = 1e-6,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    mask: Any | None = None,
) -> optax.GradientTransformation:
    """SGD with the step size "distance over gradients": see :func:`scale_by_dog`.

    The step size does not fall at the end: evaluate an average of the iterates,
    ``optax.chain(dog(), optlab.transforms.polynomial_averaging())``.

    An m x n leaf costs m n numbers of state.

    Args:
        learning_rate: factor of the step size, or a schedule of the step count: leave it at 1.
        reps_rel: see :func:`scale_by_dog`.
        eps: see :func:`scale_by_dog`.
        weight_decay: coupled: added to the gradient, times the params.
        mask: pytree of bools, or a function of params giving one: where to decay.

    Returns:
        A transformation; its ``update`` needs ``params``.

    Raises:
        ValueError: if ``reps_rel`` or ``eps`` is not positive.

    >>> params = {"w": jnp.array([3.0, -4.0])}
    >>> tx = dog(reps_rel=0.1)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> bool(jnp.allclose(updates["w"], jnp.array([-0.36, 0.48])))
    True

    References:
        M. Ivgi, O. Hinder, Y. Carmon, "DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size
        Schedule", ICML 2023, arXiv:2302.12022
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        scale_by_dog(reps_rel=reps_rel, eps=eps),
        optax.scale_by_learning_rate(learning_rate),
    )


def ldog(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    *,
    reps_rel: float = 1e-6,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    mask: Any | None = None,
) -> optax.GradientTransformation:
    """L-DoG: :func:`dog` with a step size for each leaf.

    An m x n leaf costs m n + 2 numbers of state.

    Args:
        learning_rate: factor of the step sizes, or a schedule of the step count: leave it at 1.
        reps_rel: see :func:`scale_by_dog`.
        eps: see :func:`scale_by_dog`.
        weight_decay: coupled: added to the gradient, times the params.
        mask: pytree of bools, or a function of params giving one: where to decay.

    Returns:
        A transformation; its ``update`` needs ``params``.

    Raises:
        ValueError: if ``reps_rel`` or ``eps`` is not positive.

    >>> params = {"w": jnp.array([3.0, -4.0]), "b": jnp.array(1.0)}
    >>> tx = ldog(reps_rel=0.1)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> bool(jnp.allclose(updates["b"], -0.2))
    True

    References:
        M. Ivgi, O. Hinder, Y. Carmon, "DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size
        Schedule", ICML 2023, arXiv:2302.12022
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        scale_by_dog(reps_rel=reps_rel, eps=eps, layerwise=True),
        optax.scale_by_learning_rate(learning_rate),
    )
