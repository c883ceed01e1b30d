"""Hypergradients from values alone: evolution strategies, truncated or persistent."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._batches import nth_batch
from optlab._checks import check_count, check_range
from optlab.base import PyTree
from optlab.hypergrad._errors import ratio, verdict
from optlab.hypergrad._estimator import (
    Estimator,
    HypergradientInfo,
    as_arrays,
    check_batches,
    check_problem,
    need_key,
    resume,
    stateless,
)
from optlab.hypergrad._inner_loop import (
    InnerOptimizer,
    inner_step,
    transformation_at,
)

__all__ = ["evolution", "persistent_evolution"]


class PersistentState(NamedTuple):
    """The particles of :func:`persistent_evolution`; axis 0 is the sign, axis 1 the pair."""

    y: PyTree  # inner variables, [2, pairs, ...]
    optimizer: PyTree  # inner optimizers' states, [2, pairs, ...]
    noise: PyTree  # sums of perturbations since the last start, like x with [pairs, ...]
    step: jax.Array  # shape=(), dtype=int32: inner steps since the last start


def _run(optimizer, inner, x, carry, inner_batch, steps, fresh_batches):
    """The carry after some inner steps, which nobody differentiates."""

    def step(carry, t):
        batch = nth_batch(inner_batch, t, fresh_batches)
        return inner_step(optimizer, inner, x, carry, batch), None

    return jax.lax.scan(step, carry, jnp.arange(steps))[0]


def _noise(key: jax.Array, x: PyTree, pairs: int, sigma: Any) -> PyTree:
    leaves, structure = jax.tree.flatten(x)
    keys = jax.random.split(key, max(1, len(leaves)))
    return structure.unflatten(
        [
            sigma * jax.random.normal(k, (pairs, *leaf.shape), leaf.dtype)
            for k, leaf in zip(keys, leaves, strict=False)
        ]
    )


def _moved(x: PyTree, noise: PyTree) -> PyTree:
    """Both members of each pair: ``[2, pairs, ...]``."""
    return jax.tree.map(lambda leaf, e: jnp.stack([leaf[None] + e, leaf[None] - e]), x, noise)


def _mean(noise: PyTree, values: jax.Array, sigma: Any) -> tuple[PyTree, jax.Array]:
    """The mean over pairs of noise times half the difference, and its relative standard error."""
    pairs = values.shape[1]
    weights = (values[0] - values[1]) / (2 * sigma**2)

    def moments(e):
        weighted = e * weights.astype(e.dtype).reshape(-1, *[1] * (e.ndim - 1))
        return jnp.mean(weighted, axis=0), jnp.sum(jnp.var(weighted, axis=0, ddof=pairs > 1))

    leaves, structure = jax.tree.flatten(noise)
    means, variances = zip(*map(moments, leaves), strict=True)
    h = structure.unflatten(means)
    deviation = jnp.sqrt(sum(variances) / pairs)
    # A single pair tells nothing of its spread.
    return h, ratio(deviation, optax.tree.norm(h)) if pairs > 1 else jnp.full((), jnp.nan)


def _check(sigma, pairs, steps, tolerance):
    check_range("sigma", sigma, 0.0, float("inf"), closed="()")
    check_count("pairs", pairs, 1)
    check_count("steps", steps, 1)
    check_range("tolerance", tolerance, 0.0, float("inf"), closed="()")


def _info(deviation, tolerance, stationarity, y, state=()) -> HypergradientInfo:
    return HypergradientInfo(
        residual=deviation,
        error=deviation,
        failed=verdict(deviation, tolerance),
        products=jnp.zeros((), jnp.int32),
        stationarity=stationarity,
        y=y,
        state=state,
    )


def evolution(
    optimizer: InnerOptimizer,
    steps: int,
    *,
    sigma: Any = 0.01,
    pairs: int = 16,
    fresh_batches: bool = False,
    tolerance: float = 1e-2,
) -> Estimator:
    r"""Estimates the derivative of an unrolled loop from antithetic pairs of runs.

    .. math::
        h = \frac{1}{2 N \sigma^2} \sum_{i=1}^N e_i
            \big(f(x + e_i, y_T(x + e_i)) - f(x - e_i, y_T(x - e_i))\big),
        \qquad e_i \sim \mathcal{N}(0, \sigma^2 I)

    No derivative in x is taken: nothing overflows in chaotic loops, and the objective is smoothed
    by the noise. Called window by window, from where the last one ended, the estimate is blind to
    what x did before: it is then biased, be it as precise as it may.

    Args:
        optimizer: any optax transformation, or a function of x that makes one.
        steps: T, inner steps from y.
        sigma: standard deviation of the noise, in units of x.
        pairs: N; the runs are made at once, with N times 2 inner variables in memory.
        fresh_batches: whether each step has a batch of its own: the leaves of ``inner_batch`` then
            have a leading axis of T.
        tolerance: relative standard error of the mean above which ``failed`` is set; it falls as
            the root of N, and grows as that of the size of x.

    Returns:
        The estimator; it needs a key. ``info.y`` is :math:`y_T(x)`.

    Raises:
        ValueError: if a number is out of range.

    >>> inner, outer = lambda x, y, b: (y - 3 * x) ** 2, lambda x, y, b: y**2
    >>> estimator = evolution(optax.sgd(0.25), steps=40, pairs=64)
    >>> h, info = estimator.estimate(outer, inner, 1.0, 0.0, None, None, key=jax.random.key(0))
    >>> bool(abs(h - 18) < 4 * info.error * 18)
    True

    References:
        L. Metz et al., "Understanding and Correcting Pathologies in the Training of Learned
        Optimizers", ICML 2019, arXiv:1810.10180
    """
    _check(sigma, pairs, steps, tolerance)

    def estimate(outer, inner, x, y, outer_batch, inner_batch, *, key=None, state=None):
        del state
        x, y = as_arrays(x), as_arrays(y)
        noise = _noise(need_key(key, "evolution"), x, pairs, sigma)
        if fresh_batches:
            check_batches(inner_batch, steps)
        at_end = nth_batch(inner_batch, -1, fresh_batches)
        check_problem(outer, inner, x, y, outer_batch, at_end)

        def end(x):
            carry = (y, transformation_at(optimizer, x).init(y))
            return _run(optimizer, inner, x, carry, inner_batch, steps, fresh_batches)[0]

        values = jax.vmap(jax.vmap(lambda x: outer(x, end(x), outer_batch)))(_moved(x, noise))
        h, deviation = _mean(noise, values, sigma)
        last = end(x)
        gradient = jax.grad(inner, argnums=1)(x, last, at_end)
        return h, _info(deviation, tolerance, optax.tree.norm(gradient), last)

    return Estimator(stateless, estimate)


def persistent_evolution(
    optimizer: InnerOptimizer,
    steps: int,
    *,
    horizon: int | None = None,
    sigma: Any = 0.01,
    pairs: int = 16,
    fresh_batches: bool = False,
    tolerance: float = 1e-2,
) -> Estimator:
    r"""Evolution window by window, without the bias of its truncation.

    .. math::
        \xi_i \leftarrow \xi_i + e_i, \qquad
        h = \frac{1}{2 N \sigma^2} \sum_{i=1}^N \xi_i \big(L_i^+ - L_i^-\big)

    Each pair of particles goes on from where its last window ended, and :math:`\xi_i` is all noise
    that has moved it since its start. The mean is the derivative of the outer objective at the end
    of the window in the x of all steps since the start. Its variance grows with them.

    Args:
        optimizer: any optax transformation, or a function of x that makes one.
        steps: inner steps a window, one window a call.
        horizon: inner steps after which all particles start again from y; None never.
        sigma, pairs, fresh_batches, tolerance: see :func:`evolution`.

    Returns:
        The estimator; it needs a key, and its state from call to call. ``info.y`` is the mean of
        the particles; ``y`` itself is used at a start only.

    Raises:
        ValueError: if a number is out of range.

    >>> inner, outer = lambda x, y, b: (y - 3 * x) ** 2, lambda x, y, b: y**2
    >>> estimator = persistent_evolution(optax.sgd(0.25), steps=1, pairs=8)
    >>> h, info = estimator.estimate(outer, inner, 1.0, 0.0, None, None, key=jax.random.key(0))
    >>> h, info = estimator.estimate(
    ...     outer, inner, 1.0, 0.0, None, None, key=jax.random.key(1), state=info.state
    ... )
    >>> int(info.state.step)
    2

    References:
        P. Vicol, L. Metz, J. Sohl-Dickstein, "Unbiased Gradient Estimation in Unrolled Computation
        Graphs with Persistent Evolution Strategies", ICML 2021, arXiv:2112.13835

    Differs from the paper: the loss of a window is the outer objective at its end, not a sum over
    its steps.
    """
    _check(sigma, pairs, steps, tolerance)
    if horizon is not None:
        check_count("horizon", horizon, steps)

    def init(x, y):
        x, y = as_arrays(x), as_arrays(y)

        def particles(tree):
            return jax.tree.map(lambda a: jnp.broadcast_to(a, (2, pairs, *jnp.shape(a))), tree)

        noise = jax.tree.map(lambda a: jnp.zeros((pairs, *a.shape), a.dtype), x)
        state = transformation_at(optimizer, x).init(y)
        return PersistentState(particles(y), particles(state), noise, jnp.zeros((), jnp.int32))

    def estimate(outer, inner, x, y, outer_batch, inner_batch, *, key=None, state=None):
        x, y = as_arrays(x), as_arrays(y)
        state = resume(init, x, y, state)
        if horizon is not None:
            over = state.step + steps > horizon
            state = jax.tree.map(lambda a, b: jnp.where(over, a, b), init(x, y), state)
        if fresh_batches:
            check_batches(inner_batch, steps)
        at_end = nth_batch(inner_batch, -1, fresh_batches)
        check_problem(outer, inner, x, y, outer_batch, at_end)
        noise = _noise(need_key(key, "persistent_evolution"), x, pairs, sigma)
        total = optax.tree.add(state.noise, noise)

        def window(x, carry):
            carry = _run(optimizer, inner, x, carry, inner_batch, steps, fresh_batches)
            return outer(x, carry[0], outer_batch), carry

        values, (ys, optimizers) = jax.vmap(jax.vmap(window))(
            _moved(x, noise), (state.y, state.optimizer)
        )
        h, deviation = _mean(total, values, sigma)
        mean = jax.tree.map(lambda a: jnp.mean(a, axis=(0, 1)), ys)
        gradient = jax.grad(inner, argnums=1)(x, mean, at_end)
        state = PersistentState(ys, optimizers, total, state.step + steps)
        return h, _info(deviation, tolerance, optax.tree.norm(gradient), mean, state)

    return Estimator(init, estimate)
