"""SSO: several steps of the model towards targets that one gradient of the loss sets."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import cast_like, wide
from optlab._checks import check_count, check_range
from optlab.base import Params, PyTree, Scalar, Solver
from optlab.linalg import global_norm

__all__ = [
    "ScaleByAdagradNormState",
    "SsoInfo",
    "SsoState",
    "armijo_descent",
    "scale_by_adagrad_norm",
    "sso",
]


class SsoState(NamedTuple):
    """State of :func:`sso`: the params, and what moves their outputs."""

    params: Params  # the model's, shapes and dtypes as given
    outer: optax.OptState  # of the transformation of the outputs


class SsoInfo(NamedTuple):
    """What a step of :func:`sso` saw; scalars."""

    value: jax.Array  # loss of the batch at the params before the step
    before: jax.Array  # mean squared distance of the outputs from their targets, before
    after: jax.Array  # and after the inner steps


def armijo_descent(
    step_size: float = 10.0,
    *,
    slope: float = 0.5,
    decrease: float = 0.9,
    increase: float = 1.8,
    max_tries: int = 100,
    max_step_size: float = float("inf"),
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient descent by the longest tried step that decreases a function enough.

    Steps :math:`s, \beta s, \beta^2 s, \dots` are tried until
    :math:`f(x - s g) \le f(x) - c s \|g\|^2`; the next search starts from :math:`e` times the step
    found. The ``update`` takes ``value``, ``grad`` and ``value_fn``, as
    ``optax.scale_by_backtracking_linesearch`` does, of which this is made.

    Args:
        step_size: the first search starts from :math:`e` times it, in units of x over gradient.
        slope: c in (0, 1).
        decrease: :math:`\beta` in (0, 1).
        increase: :math:`e \ge 1`.
        max_tries: steps tried in one search before the shortest is taken.
        max_step_size: no step is longer.

    Returns:
        A transformation; its state is a few scalars.

    Raises:
        ValueError: if an argument is out of range.

    >>> tx = armijo_descent(1.0)
    >>> f = lambda x: x**2
    >>> x = jnp.array(3.0)
    >>> updates, _ = tx.update(2 * x, tx.init(x), x, value=f(x), grad=2 * x, value_fn=f)
    >>> round(float(updates / (-2 * x)), 4)  # 1.8 * 0.9**13, the first below 1/2
    0.4575

    References:
        J. W. Lavington, S. Vaswani, R. Babanezhad, M. Schmidt, N. Le Roux, "Target-based Surrogates
        for Stochastic Optimization", ICML 2023, arXiv:2302.02607
    """
    check_range("step_size", step_size, 0.0, float("inf"), closed="()")
    check_range("slope", slope, 0.0, 1.0, closed="()")
    check_range("decrease", decrease, 0.0, 1.0, closed="()")
    check_range("increase", increase, 1.0, float("inf"))
    check_count("max_tries", max_tries, 1)
    return optax.chain(
        optax.sgd(step_size),
        optax.scale_by_backtracking_linesearch(
            max_tries,
            slope_rtol=slope,
            decrease_factor=decrease,
            increase_factor=increase,
            max_learning_rate=max_step_size / step_size,
        ),
    )


class ScaleByAdagradNormState(NamedTuple):
    """State of :func:`scale_by_adagrad_norm`: 4 bytes in all."""

    total: jax.Array  # sum of the squared norms; shape=(), dtype=float32 or wider


def scale_by_adagrad_norm(eps: float = 1e-6) -> optax.GradientTransformation:
    r"""Divides by the root of the sum of all squared gradient norms: AdaGrad's step, as one scalar.

    .. math:: u_t = g_t \Big/ \Big(\sqrt{\textstyle\sum_{k \le t} \|g_k\|^2} + \epsilon\Big)

    Args:
        eps: :math:`\epsilon > 0`, in units of the gradient's norm.

    Returns:
        A transformation; its state is one scalar for the whole pytree.

    Raises:
        ValueError: if ``eps`` is out of range.

    >>> tx = scale_by_adagrad_norm()
    >>> g = jnp.array([3.0, 4.0])
    >>> [round(float(u), 3) for u in tx.update(g, tx.init(g))[0]]
    [0.6, 0.8]

    References:
        R. Ward, X. Wu, L. Bottou, "AdaGrad Stepsizes: Sharp Convergence over Nonconvex Landscapes",
        ICML 2019, arXiv:1806.01811
    """
    check_range("eps", eps, 0.0, float("inf"), closed="()")

    def init(params):
        return ScaleByAdagradNormState(jnp.zeros_like(global_norm(wide(params))))

    def update(updates, state, params=None):
        del params
        norm = global_norm(wide(updates))
        total = state.total + (norm * norm).astype(state.total.dtype)
        scaled = jax.tree.map(lambda g: g / (jnp.sqrt(total) + eps), wide(updates))
        return cast_like(scaled, updates), ScaleByAdagradNormState(total)

    return optax.GradientTransformation(init, update)


def sso(
    predict: Callable[[Params, Any], PyTree],
    loss: Callable[[PyTree, Any], Scalar],
    outer: optax.GradientTransformation,
    *,
    inner: optax.GradientTransformation | None = None,
    inner_steps: int = 10,
) -> Solver:
    r"""Moves the model's outputs by one step of an optimizer, and then fits the model to them.

    .. math::
        z_t = f(\theta_t), \qquad T_t = z_t + \text{outer}(\nabla \ell(z_t)), \qquad
        \theta_{t+1} \approx \arg\min_\theta \|f(\theta) - T_t\|^2

    The gradient of :math:`\ell`, which may be expensive, is taken once a step; the fit takes
    ``inner_steps`` steps that see the model alone. With ``optax.sgd(alpha)`` for the outer step the
    squared distance, times :math:`1 / 2 \alpha` and shifted by a constant, is the paper's surrogate

    .. math::
        \ell(z_t) + \langle \nabla \ell(z_t), z - z_t \rangle + \tfrac{1}{2 \alpha} \|z - z_t\|^2
        = \ell(z_t) + \tfrac{1}{2 \alpha} \big(\|z - T_t\|^2 - \|z_t - T_t\|^2\big)

    which lies above the loss where :math:`\alpha \le 1 / L` for an L-smooth :math:`\ell`: the loss
    then falls with it. For a mean over N examples, :math:`\alpha` is N times the step of one.

    The state holds the params and the outer optimizer's state for the outputs, no more.

    Args:
        predict: from params and a batch to the outputs, an array or a pytree of arrays.
        loss: from outputs and the batch to a scalar.
        outer: what moves the outputs. The paper's are ``optax.sgd(alpha)``, with a number or a
            schedule; ``optax.chain(scale_by_adagrad_norm(), optax.sgd(alpha))``; and
            ``armijo_descent(1.0)``, a line search in the outputs. It gets ``value``, ``grad`` and
            ``value_fn`` where it takes them. A state of the outputs' shape needs batches of one
            size, in the same order.
        inner: any optimizer of the squared distance, averaged over the outputs' entries. It starts
            afresh in each step. None means :func:`armijo_descent`.
        inner_steps: m, one or more.

    Returns:
        A solver: ``state = init(params, batch)``, where only the batch's shapes matter, and
        ``state, info = step(state, batch)`` with an :class:`SsoInfo`. The params are
        ``state.params``.

    Raises:
        ValueError: if ``inner_steps`` is out of range.

    >>> batch = {"x": jnp.eye(2), "y": jnp.array([1.0, -1.0])}
    >>> predict = lambda w, batch: batch["x"] @ w
    >>> loss = lambda z, batch: 0.5 * jnp.sum((z - batch["y"]) ** 2)
    >>> solver = sso(predict, loss, optax.sgd(1.0), inner=optax.sgd(1.0), inner_steps=1)
    >>> state, info = solver.step(solver.init(jnp.zeros(2), batch), batch)
    >>> state.params.tolist(), float(info.after)
    ([1.0, -1.0], 0.0)

    References:
        J. W. Lavington, S. Vaswani, R. Babanezhad, M. Schmidt, N. Le Roux, "Target-based Surrogates
        for Stochastic Optimization", ICML 2023, arXiv:2302.02607

    Differs from the paper: the surrogate is written as a distance, and any optax transformation may
    set the targets. Differs from the released code: its penalty lacks the factor 1/2, so that its
    steps in the outputs are half of what its ``eta`` and its line search say (``optax.scale(0.5)``
    after the search); it stops the inner steps at a gradient below 1e-6, clips ``eta`` to
    [1e-4, 1e4], and ignores the inner optimizer that it is given.
    """
    check_count("inner_steps", inner_steps, 1)
    outer = optax.with_extra_args_support(outer)
    inner = optax.with_extra_args_support(armijo_descent() if inner is None else inner)

    def init(params, batch):
        outputs = jax.eval_shape(predict, params, batch)
        zeros = jax.tree.map(lambda z: jnp.zeros(z.shape, z.dtype), outputs)
        return SsoState(jax.tree.map(jnp.array, params), outer.init(zeros))

    def step(state, batch):
        def value_fn(outputs):
            return loss(outputs, batch)

        outputs = predict(state.params, batch)
        value, gradient = jax.value_and_grad(value_fn)(outputs)
        moves, outer_state = outer.update(
            gradient, state.outer, outputs, value=value, grad=gradient, value_fn=value_fn
        )
        targets = jax.tree.map(jnp.add, wide(outputs), wide(moves))

        def distance(params):
            errors = jax.tree.map(jnp.subtract, wide(predict(params, batch)), targets)
            return optax.tree.norm(errors, squared=True) / optax.tree.size(errors)

        def inner_step(carry, _):
            params, inner_state = carry
            surrogate, gradient = jax.value_and_grad(distance)(params)
            updates, inner_state = inner.update(
                gradient, inner_state, params, value=surrogate, grad=gradient, value_fn=distance
            )
            return (optax.apply_updates(params, updates), inner_state), surrogate

        (params, _), surrogates = jax.lax.scan(
            inner_step, (state.params, inner.init(state.params)), length=inner_steps
        )
        info = SsoInfo(value=value, before=surrogates[0], after=distance(params))
        return SsoState(params, outer_state), info

    return Solver(init, step)
