"""Hypergradients by differentiating the inner optimizer's steps."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from optlab._batches import nth_batch
from optlab._checks import check_count, check_range
from optlab.base import PyTree
from optlab.hypergrad._errors import (
    inner_error,
    memory_error,
    ratio,
    response_error,
    verdict,
)
from optlab.hypergrad._estimator import (
    Estimator,
    HypergradientInfo,
    as_arrays,
    check_batches,
    check_problem,
    differentiate,
    resume,
)
from optlab.hypergrad._inner_loop import (
    InnerOptimizer,
    inner_step,
    transformation_at,
)

__all__ = ["unrolled"]


class UnrolledState(NamedTuple):
    """The inner optimizer's state, with which the next call goes on."""

    optimizer: PyTree  # state of the inner optimizer


def unrolled(
    optimizer: InnerOptimizer,
    steps: int,
    *,
    truncate: int | None = None,
    checkpoint: int | str | None = None,
    mode: str = "reverse",
    fresh_batches: bool = False,
    guard: bool = True,
    tolerance: float | None = 1e-2,
) -> Estimator:
    r"""Runs the inner optimizer from y, and differentiates its steps.

    .. math::
        h = \frac{d}{dx} f(x, y_T(x)), \qquad y_{t+1} = \Phi(x, y_t), \quad y_0 = y

    This is the exact derivative of what the steps do, be they few, and near the hypergradient once
    they have forgotten where they started. How much they remember is the residual: in reverse mode
    :math:`\|df/dy_0\| / \|f_y\|`, which costs nothing.

    Reverse mode keeps T steps. With ``checkpoint`` it keeps the starts of T / s segments of s
    steps, and computes each but the last again when it comes to it: with "sqrt", O(sqrt T) memory
    for one more forward pass. With ``truncate`` only the last K steps are differentiated. Forward
    mode carries one derivative for each element of x, needs no memory, and goes through loops of
    unknown length, such as the line search of ``optax.lbfgs``, at which reverse mode raises jax's
    error.

    Args:
        optimizer: any optax transformation, or a function of x that makes one, for learning rates
            that are learnt.
        steps: T.
        truncate: K, at most ``steps``; None differentiates all.
        checkpoint: s, "sqrt", or None for no checkpoints; of reverse mode.
        mode: "reverse" or "forward".
        fresh_batches: whether each step has a batch of its own: the leaves of ``inner_batch`` then
            have a leading axis of T.
        guard: whether derivatives that are not finite count as zero where the inner gradient is
            exactly zero. Adam's square root has an infinite derivative there (``eps_root`` is
            the other cure), and one parameter without gradient would make all of h NaN.
        tolerance: relative error above which ``failed`` is set, of the hypergradient by what the
            steps remember, and of y by the inner gradient at the end. None saves the three products
            of the check.

    Returns:
        The estimator. ``info.y`` is :math:`y_T`, and the state goes on with the optimizer's.

    Raises:
        ValueError: if a number or ``mode`` is out of range.

    >>> inner, outer = lambda x, y, b: (y - 3 * x) ** 2, lambda x, y, b: y**2
    >>> estimator = unrolled(optax.sgd(0.25), steps=20, checkpoint="sqrt")
    >>> h, info = estimator.estimate(outer, inner, 1.0, 0.0, None, None)
    >>> round(float(h), 3), round(float(info.y), 3), bool(info.failed)
    (18.0, 3.0, False)

    References:
        L. Franceschi, M. Donini, P. Frasconi, M. Pontil, "Forward and Reverse Gradient-Based
        Hyperparameter Optimization", ICML 2017, arXiv:1703.01785; A. Shaban, C.-A. Cheng, N. Hatch,
        B. Boots, "Truncated Back-propagation for Bilevel Optimization", AISTATS 2019,
        arXiv:1810.10667; T. Chen, B. Xu, C. Zhang, C. Guestrin, "Training Deep Nets with Sublinear
        Memory Cost", 2016, arXiv:1604.06174
    """
    check_count("steps", steps, 1)
    check_range("tolerance", tolerance, 0.0, float("inf"), closed="()")
    if truncate is not None:
        check_count("truncate", truncate, 1)
        if truncate > steps:
            raise ValueError(f"truncate must be at most steps, {steps}, got {truncate}.")
    if mode not in ("reverse", "forward"):
        raise ValueError(f"mode must be 'reverse' or 'forward', got {mode!r}.")
    if checkpoint is not None and checkpoint != "sqrt":
        check_count("checkpoint", checkpoint, 1)
    if checkpoint is not None and mode == "forward":
        raise ValueError("checkpoint is of reverse mode: forward mode keeps no steps.")
    kept = steps if truncate is None else truncate
    segment = math.isqrt(kept - 1) + 1 if checkpoint == "sqrt" else checkpoint

    def init(x, y):
        return UnrolledState(transformation_at(optimizer, x).init(y))

    def estimate(outer, inner, x, y, outer_batch, inner_batch, *, key=None, state=None):
        del key
        x, y = as_arrays(x), as_arrays(y)
        state = resume(init, x, y, state)
        if fresh_batches:
            check_batches(inner_batch, steps)
        at_end = nth_batch(inner_batch, -1, fresh_batches)
        check_problem(outer, inner, x, y, outer_batch, at_end)

        def run(x, carry, first, last, segment=None):
            def step(carry, t):
                batch = nth_batch(inner_batch, t, fresh_batches)
                return inner_step(optimizer, inner, x, carry, batch, mode if guard else None), None

            return _scan(step, carry, jnp.arange(first, last), segment)

        carry = (y, state.optimizer)
        if kept < steps:
            carry = jax.lax.stop_gradient(run(x, carry, 0, steps - kept))
        start, opt_state = carry

        def unroll(x, start):
            return run(x, (start, opt_state), steps - kept, steps, segment)

        problem = (outer, inner, x, outer_batch, at_end)
        differentiated = _reverse if mode == "reverse" else _forward
        h, info = differentiated(unroll, start, problem, tolerance)
        return h, info

    return Estimator(init, estimate)


def _scan(step: Callable, carry: PyTree, inputs: jax.Array, segment: int | None) -> PyTree:
    """The last carry of a scan; with a segment length, only segments' starts are kept.

    But all of the last segment, which takes in the remainder: it is the first to be differentiated,
    when the memory for a segment is there anyway, and so need not be computed again.
    """
    again = 0 if segment is None else max(0, len(inputs) // segment - 1) * segment
    if again:
        # Within a scan nothing can be merged with what it repeats: a barrier would only cost.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def run(carry, inputs):
            return jax.lax.scan(step, carry, inputs)[0], None

        carry, _ = jax.lax.scan(run, carry, inputs[:again].reshape(-1, segment))
    return jax.lax.scan(step, carry, inputs[again:])[0]


def _reverse(unroll, start, problem, tolerance):
    outer, inner, x, outer_batch, inner_batch = problem

    def value(x, start):
        y, opt_state = unroll(x, start)
        return outer(x, y, outer_batch), (y, opt_state)

    (h, memory), (y, opt_state) = jax.grad(value, argnums=(0, 1), has_aux=True)(x, start)
    at = differentiate(outer, inner, x, y, outer_batch, inner_batch)
    residual = ratio(optax.tree.norm(memory), optax.tree.norm(at.outer_y))
    error, products = jnp.full_like(residual, jnp.nan), 0
    if tolerance is not None:
        error, products = memory_error(at, memory, h), 1
    return h, _info(at, y, opt_state, residual, error, products, tolerance)


def _forward(unroll, start, problem, tolerance):
    outer, inner, x, outer_batch, inner_batch = problem
    flat_x, unravel_x = ravel_pytree(x)

    def end(flat_x):
        y, opt_state = unroll(unravel_x(flat_x), start)
        return ravel_pytree(y)[0], (y, opt_state)

    jacobian, (y, opt_state) = jax.jacfwd(end, has_aux=True)(flat_x)  # [size of y, size of x]
    at = differentiate(outer, inner, x, y, outer_batch, inner_batch)

    def pull(w):
        return unravel_x(ravel_pytree(w)[0] @ jacobian)

    h = optax.tree.add(at.outer_x, pull(at.outer_y))
    residual = error = jnp.full_like(optax.tree.norm(at.inner_y), jnp.nan)
    products = 0
    if tolerance is not None:
        residual, error = response_error(at, pull, h)
        products = 2
    return h, _info(at, y, opt_state, residual, error, products, tolerance)


def _info(at, y, opt_state, residual, error, products, tolerance) -> HypergradientInfo:
    """The account; y is the estimator's own, so that its error counts too."""
    if tolerance is not None:
        error, products = jnp.maximum(error, inner_error(at, y)), products + 1
    return HypergradientInfo(
        residual=residual,
        error=error,
        failed=verdict(error, tolerance),
        products=jnp.asarray(products, jnp.int32),
        stationarity=optax.tree.norm(at.inner_y),
        y=y,
        state=UnrolledState(opt_state),
    )
