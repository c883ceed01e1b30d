"""Hypergradients through a learnt linear response of the inner solution."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from optlab._checks import check_count, check_range
from optlab.base import PyTree
from optlab.hypergrad._errors import response_error, verdict
from optlab.hypergrad._estimator import (
    Estimator,
    HypergradientInfo,
    as_arrays,
    differentiate,
    need_key,
    resume,
)

__all__ = ["best_response"]


class BestResponseState(NamedTuple):
    """The response learnt so far."""

    response: jax.Array  # shape=(size of y, size of x)
    optimizer: PyTree  # state of the optimizer of the response


def best_response(
    optimizer: optax.GradientTransformation,
    steps: int,
    *,
    sigma: float = 0.1,
    samples: int = 8,
    tolerance: float | None = 1e-2,
) -> Estimator:
    r"""Learns how the inner solution answers to x, and differentiates the answer.

    .. math::
        U \approx \arg\min_U \mathbb{E}_{e \sim \mathcal{N}(0, \sigma^2 I)}\,
            g(x + e, y + U e), \qquad h = f_x + U^\top f_y

    At an inner solution the minimiser tends to :math:`dy^* / dx` with :math:`\sigma \to 0`. The
    response is dense, of size(y) times size(x) numbers; it is kept in the state and goes on being
    learnt from call to call. No second derivative is taken but by the check.

    Args:
        optimizer: of the response; any optax transformation.
        steps: on the response, each with noise of its own.
        sigma: standard deviation of the noise, in units of x.
        samples: draws of the noise a step; each is used with both signs.
        tolerance: relative error above which ``failed`` is set; None saves the two products of the
            check, and ``failed`` is then always set.

    Returns:
        The estimator; it needs a key.

    Raises:
        ValueError: if a number is out of range.

    >>> inner, outer = lambda x, y, b: (y - 3 * x) ** 2, lambda x, y, b: y**2
    >>> estimator = best_response(optax.sgd(10.0), steps=100)
    >>> h, _ = estimator.estimate(outer, inner, 1.0, 3.0, None, None, key=jax.random.key(0))
    >>> round(float(h), 2)
    18.0

    References:
        M. MacKay, P. Vicol, J. Lorraine, D. Duvenaud, R. Grosse, "Self-Tuning Networks: Bilevel
        Optimization of Hyperparameters using Structured Best-Response Functions", ICLR 2019,
        arXiv:1903.03088

    Differs from the paper: y is given and only the slope is learnt; the slope is dense, where the
    paper gives each layer a structure of low rank.
    """
    check_count("steps", steps, 1)
    check_count("samples", samples, 1)
    check_range("sigma", sigma, 0.0, float("inf"), closed="()")
    check_range("tolerance", tolerance, 0.0, float("inf"), closed="()")

    def init(x, y):
        flat_x, flat_y = ravel_pytree(x)[0], ravel_pytree(y)[0]
        response = jnp.zeros((flat_y.size, flat_x.size), flat_y.dtype)
        return BestResponseState(response, optimizer.init(response))

    def estimate(outer, inner, x, y, outer_batch, inner_batch, *, key=None, state=None):
        x, y = as_arrays(x), as_arrays(y)
        state = resume(init, x, y, state)
        flat_x, unravel_x = ravel_pytree(x)
        flat_y, unravel_y = ravel_pytree(y)
        tx = optax.with_extra_args_support(optimizer)

        def loss(response, noise):
            def one(e):
                return inner(unravel_x(flat_x + e), unravel_y(flat_y + response @ e), inner_batch)

            return jnp.mean(jax.vmap(one)(noise))

        def step(state, key):
            e = sigma * jax.random.normal(key, (samples, flat_x.size), flat_x.dtype)
            value, gradient = jax.value_and_grad(loss)(state.response, jnp.concatenate([e, -e]))
            updates, optimizer_state = tx.update(
                gradient, state.optimizer, state.response, value=value, grad=gradient
            )
            response = optax.apply_updates(state.response, updates)
            return BestResponseState(response, optimizer_state), None

        keys = jax.random.split(need_key(key, "best_response"), steps)
        state, _ = jax.lax.scan(step, state, keys)

        def pull(w):
            return unravel_x(ravel_pytree(w)[0] @ state.response)

        at = differentiate(outer, inner, x, y, outer_batch, inner_batch)
        h = optax.tree.add(at.outer_x, pull(at.outer_y))
        stationarity = optax.tree.norm(at.inner_y)
        residual = error = jnp.full_like(stationarity, jnp.nan)
        if tolerance is not None:
            residual, error = response_error(at, pull, h)
        info = HypergradientInfo(
            residual=residual,
            error=error,
            failed=verdict(error, tolerance),
            products=jnp.asarray(0 if tolerance is None else 2, jnp.int32),
            stationarity=stationarity,
            y=y,
            state=state,
        )
        return h, info

    return Estimator(init, estimate)
