"""Minimisers as differentiable functions, found by any solver."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._checks import check_count, check_floats, check_range
from optlab.base import PyTree
from optlab.implicit._root import custom_root
from optlab.implicit.conditions import stationarity

__all__ = ["MinimizeInfo", "argmin", "minimize"]


def argmin(
    fun: Callable[..., Any],
    solver: Callable[..., Any],
    *,
    optimality: Callable[..., PyTree] | None = None,
    has_aux: bool = False,
    solver_has_aux: bool = False,
    **options: Any,
) -> Callable[..., Any]:
    r"""Gives :math:`x^*(\theta) = \arg\min_x f(x, \theta)`, differentiable in :math:`\theta`.

    Args:
        fun: ``fun(x, *args)``, a scalar.
        solver: ``solver(fun, init, *args)`` giving x. :func:`minimize` makes one from an optax
            optimizer; any function of this signature will do: a call of optimistix, a
            :func:`jax.pure_callback` to SciPy, or plain Python where nothing is traced.
        optimality: the condition that x satisfies; None is
            :func:`~optlab.implicit.conditions.stationarity` of ``fun``, right without constraints.
        has_aux: ``fun`` returns ``(value, aux)``; the solver still gets the value alone, and the
            result is ``(x, aux)``, aux at x, with its derivatives.
        solver_has_aux: the solver returns ``(x, aux)``, and so does the result; this aux has no
            derivative. Not together with ``has_aux``.
        **options: of :func:`~optlab.implicit.custom_root`.

    Returns:
        A function ``solve(init, *args)``.

    Raises:
        ValueError: if both ``has_aux`` and ``solver_has_aux`` are set.

    >>> solve = argmin(lambda x, t: (x - t) ** 2 + x**2, minimize(optax.sgd(0.2)))
    >>> float(jax.grad(solve, argnums=1)(0.0, 3.0))
    0.5

    References:
        M. Blondel et al., "Efficient and Modular Implicit Differentiation", NeurIPS 2022,
        arXiv:2105.15183
    """
    if has_aux and solver_has_aux:
        raise ValueError("solver_has_aux and has_aux exclude each other: one aux is returned.")
    if optimality is None:
        optimality = stationarity(fun, has_aux=has_aux)

    def value(x, *args, **kwargs):
        got = fun(x, *args, **kwargs)
        return got[0] if has_aux else got

    @custom_root(optimality, has_aux=solver_has_aux, **options)
    def solve(init, *args, **kwargs):
        return solver(value, init, *args, **kwargs)

    def solve_with_aux(init, *args, **kwargs):
        x = solve(init, *args, **kwargs)
        return x, fun(x, *args, **kwargs)[1]

    return solve_with_aux if has_aux else solve


class MinimizeInfo(NamedTuple):
    """How :func:`minimize` ended."""

    steps: jax.Array  # shape=(), dtype=int32
    gradient_norm: jax.Array  # shape=(), at the point given back


def minimize(
    optimizer: optax.GradientTransformation,
    *,
    max_steps: int = 1000,
    tol: Any = 1e-6,
    with_info: bool = False,
) -> Callable[..., Any]:
    r"""Makes a solver of any optax optimizer, line searches included, for :func:`argmin`.

    It steps until :math:`\|\nabla f(x)\|_2 \le \mathtt{tol}`, a step changes nothing any more, or
    ``max_steps`` are done. A NaN gradient ends it, too.

    Args:
        optimizer: gets ``value``, ``grad`` and ``value_fn`` where it takes them, as
            :func:`optax.lbfgs` does, whose line search has the next gradient already.
        max_steps: bound of the steps.
        tol: bound of the gradient's norm, absolute.
        with_info: return ``(x, MinimizeInfo)``, for ``solver_has_aux=True``.

    Returns:
        ``solver(fun, init, *args)``, a jittable loop; reverse mode does not go through it.

    Raises:
        ValueError: if a number is out of range.

    >>> x = minimize(optax.lbfgs())(lambda x: jnp.sum((x - 3.0) ** 2), jnp.zeros(2))
    >>> x.round(4).tolist()
    [3.0, 3.0]
    """
    check_count("max_steps", max_steps, 1)
    check_range("tol", tol, 0.0, float("inf"))
    transform = optax.with_extra_args_support(optimizer)

    def solver(fun, init, *args, **kwargs):
        def value(x):
            return fun(x, *args, **kwargs)

        check_floats("init", init)
        init = jax.tree.map(jnp.asarray, init)
        state = transform.init(init)
        # A line search keeps the value and gradient that it ends with.
        keeps = all(optax.tree.get(state, name) is not None for name in ("value", "grad"))
        if keeps:
            evaluate = optax.value_and_grad_from_state(value)
        else:
            plain = jax.value_and_grad(value)

            def evaluate(x, *, state):
                del state
                return plain(x)

        def unfinished(carry):
            _, _, _, gradient, step, moved = carry
            # Negated, a NaN would go on.
            return (step < max_steps) & moved & (optax.tree.norm(gradient) > tol)

        def advance(carry):
            x, state, loss, gradient, step, _ = carry
            updates, state = transform.update(
                gradient, state, x, value=loss, grad=gradient, value_fn=value
            )
            new = optax.apply_updates(x, updates)
            pairs = zip(jax.tree.leaves(new), jax.tree.leaves(x), strict=True)
            moved = jnp.any(jnp.stack([jnp.any(a != b) for a, b in pairs]))
            loss, gradient = evaluate(new, state=state)
            return new, state, loss, gradient, step + 1, moved

        loss, gradient = jax.value_and_grad(value)(init)
        start = (init, state, loss, gradient, jnp.zeros((), jnp.int32), jnp.array(True))
        x, _, _, gradient, steps, _ = jax.lax.while_loop(unfinished, advance, start)
        return (x, MinimizeInfo(steps, optax.tree.norm(gradient))) if with_info else x

    return solver
