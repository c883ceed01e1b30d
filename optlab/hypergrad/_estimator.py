"""What every estimator of hypergradients has in common: its shape, its derivatives, its check."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._checks import check_floats, check_like
from optlab.base import PyTree, Scalar
from optlab.hypergrad._errors import adjoint_error, krylov_error, verdict

__all__ = [
    "Adjoint",
    "Derivatives",
    "Estimator",
    "HypergradientInfo",
    "as_arrays",
    "check_batches",
    "check_problem",
    "differentiate",
    "estimator_from_adjoint",
    "hessian_product",
    "need_key",
    "resume",
    "stateless",
]


class Estimator(NamedTuple):
    """A way to estimate hypergradients: ``init(x, y)`` and ``estimate``.

    ``estimate(outer, inner, x, y, outer_batch, inner_batch, *, key=None, state=None)`` gives
    ``(hypergradient, info)``: a tree like ``x``, and a :class:`HypergradientInfo`. The objectives
    are ``outer(x, y, batch)`` and ``inner(x, y, batch)``; they return scalars.

    An estimator that learns from call to call (a warm start, the particles of an evolution) keeps
    that in a state: ``state = init(x, y)``, then ``state = info.state``. None starts anew each
    time. All is pure: it runs under ``jit``, ``vmap`` and ``scan``.
    """

    init: Callable[[PyTree, PyTree], PyTree]
    estimate: Callable[..., tuple[PyTree, "HypergradientInfo"]]


class HypergradientInfo(NamedTuple):
    """What an estimator knows about its hypergradient.

    ``residual`` is measured on the equation that the estimator solves (of a random one: the
    standard error of the mean), and ``error`` is what follows from it for the hypergradient: an
    estimate with some margin, not a bound, and only as good as ``y`` is near the inner solution.
    """

    residual: Scalar  # shape=(), relative; NaN where it was not measured
    error: Scalar  # shape=(), relative; NaN where it was not measured
    failed: jax.Array  # shape=(), dtype=bool: not known to be within the tolerance
    products: jax.Array  # shape=(), dtype=int32: Hessian-vector products, the check's included
    stationarity: Scalar  # shape=(): norm of the inner gradient at y
    y: PyTree  # where the hypergradient was taken: the argument, or the last inner iterate
    state: PyTree  # to be given to the next call


class Derivatives(NamedTuple):
    """First derivatives at ``(x, y)``, and products with the second ones of the inner objective."""

    outer_x: PyTree
    outer_y: PyTree
    inner_y: PyTree
    hessian: Callable[[PyTree], PyTree]  # v -> g_yy v
    cross: Callable[[PyTree], PyTree]  # v -> g_xy v


class Adjoint(NamedTuple):
    """An approximation of ``v = g_yy^{-1} f_y``, and what it took."""

    v: PyTree
    products: Any = 0  # Hessian-vector products
    state: PyTree = ()
    cross: PyTree | None = None  # g_xy v, where it comes without second derivatives
    residual: Scalar | None = None  # relative, where a Krylov method has measured it
    convex: Any = True  # False where g_yy is known not to be positive definite


def stateless(x: PyTree, y: PyTree) -> PyTree:
    """The ``init`` of an estimator that keeps nothing."""
    del x, y
    return ()


def as_arrays(tree: PyTree) -> PyTree:
    """Gives the leaves as arrays: Python floats are welcome."""
    return jax.tree.map(jnp.asarray, tree)


def resume(init: Callable, x: PyTree, y: PyTree, state: PyTree | None) -> PyTree:
    """Gives the state to start from; raises TypeError if it is not one of ``init``."""
    if state is None:
        return init(x, y)
    check_like("state", state, "what init(x, y) gives", jax.eval_shape(init, x, y))
    return state


def need_key(key: jax.Array | None, name: str) -> jax.Array:
    """Gives the key; raises ValueError if there is none."""
    if key is None:
        raise ValueError(f"key must be given: {name} draws random numbers.")
    return key


def check_problem(
    outer: Callable,
    inner: Callable | None,
    x: PyTree,
    y: PyTree,
    outer_batch: PyTree,
    inner_batch: PyTree,
) -> None:
    """Checks what an estimator is given; an inner objective of None is not used.

    Raises:
        TypeError: if ``x`` or ``y`` hold anything but floating-point arrays.
        ValueError: if an objective does not return one scalar.
    """
    check_floats("x", x)
    check_floats("y", y)
    for name, function, batch in (("outer", outer, outer_batch), ("inner", inner, inner_batch)):
        value = None if function is None else jax.eval_shape(function, x, y, batch)
        if function is not None and getattr(value, "shape", None) != ():
            raise ValueError(f"{name} must return one scalar, without aux; got {value}.")


def check_batches(batches: PyTree, count: int) -> None:
    """Raises ValueError unless all leaves have a leading axis of ``count`` batches."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(batches):
        if jnp.ndim(leaf) == 0 or leaf.shape[0] != count:
            raise ValueError(
                f"inner_batch must have a leading axis of {count} batches; "
                f"inner_batch{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}."
            )


def differentiate(
    outer: Callable, inner: Callable, x: PyTree, y: PyTree, outer_batch: PyTree, inner_batch: PyTree
) -> Derivatives:
    """Linearises both objectives at ``(x, y)``; raises what :func:`check_problem` does."""
    check_problem(outer, inner, x, y, outer_batch, inner_batch)
    outer_x, outer_y = jax.grad(outer, argnums=(0, 1))(x, y, outer_batch)
    # One linearisation serves all products: by symmetry, the transpose in y is the Hessian itself.
    inner_y, pull = jax.vjp(lambda x, y: jax.grad(inner, argnums=1)(x, y, inner_batch), x, y)
    return Derivatives(outer_x, outer_y, inner_y, lambda v: pull(v)[1], lambda v: pull(v)[0])


def hessian_product(inner: Callable, x: PyTree, y: PyTree, batch: PyTree, v: PyTree) -> PyTree:
    """Gives ``g_yy v`` on a batch, for a single product."""
    return jax.jvp(lambda y: jax.grad(inner, argnums=1)(x, y, batch), (y,), (v,))[1]


def estimator_from_adjoint(
    solve: Callable, *, tolerance: float | None, init: Callable = stateless
) -> Estimator:
    """Makes an estimator of an approximate inverse Hessian.

    Args:
        solve: ``(derivatives, problem, key, state) -> Adjoint``, with ``problem`` the six arguments
            of ``estimate``; the state may be None.
        tolerance: of the error; None saves the two products that measure it where the solver has
            not measured the residual itself.
        init: makes the state.

    Returns:
        The estimator.
    """

    def estimate(outer, inner, x, y, outer_batch, inner_batch, *, key=None, state=None):
        x, y = as_arrays(x), as_arrays(y)
        problem = (outer, inner, x, y, outer_batch, inner_batch)
        at = differentiate(*problem)
        if state is not None:
            state = resume(init, x, y, state)
        adjoint = solve(at, problem, key, state)
        cross = at.cross(adjoint.v) if adjoint.cross is None else adjoint.cross
        hypergradient = optax.tree.sub(at.outer_x, cross)
        stationarity = optax.tree.norm(at.inner_y)
        residual = error = jnp.full_like(stationarity, jnp.nan)
        products = adjoint.products
        if tolerance is not None and adjoint.residual is not None:
            residual = adjoint.residual.astype(residual.dtype)
            error = krylov_error(at.outer_y, adjoint.v, residual)
        elif tolerance is not None:
            residual, error = adjoint_error(at.hessian, at.outer_y, adjoint.v)
            products += 2
        error = jnp.where(adjoint.convex, error, jnp.inf)
        info = HypergradientInfo(
            residual=residual,
            error=error,
            failed=verdict(error, tolerance),
            products=jnp.asarray(products, jnp.int32),
            stationarity=stationarity,
            y=y,
            state=adjoint.state,
        )
        return hypergradient, info

    return Estimator(init, estimate)
