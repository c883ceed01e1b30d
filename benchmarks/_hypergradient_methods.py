"""Hypergradients of optlab and of its peers, behind one signature.

A method is ``f(x, y, outer_batch, inner_batch) -> (hypergradient, failed)``; ``failed`` is None of
those that cannot say. y is the inner solution, or where to start from.
"""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optlab import hypergrad, implicit
from optlab.problems import HypergradientProblem, hypergradient_problem

__all__ = ["end_to_end", "few_shot", "given_solution", "tasks", "unrolling"]

PEERS = tuple(name for name in ("jaxopt", "optimistix") if importlib.util.find_spec(name))


def _ours(estimator, problem):
    def method(x, y, outer_batch, inner_batch):
        h, info = estimator.estimate(problem.outer, problem.inner, x, y, outer_batch, inner_batch)
        return h, info.failed

    return method


def _through(solution, problem):
    """The derivative of the outer objective through a differentiable inner solution."""

    def method(x, y, outer_batch, inner_batch):
        value = lambda x: problem.outer(x, solution(x, y, inner_batch), outer_batch)  # noqa: E731
        return jax.grad(value)(x), None

    return method


def given_solution(problem) -> dict:
    """Methods that are handed the inner solution: what differs is the linear solve."""
    step = 1 / problem.smoothness
    methods = {
        "optlab cg": hypergrad.cg(),
        "optlab cg, rtol 1e-5": hypergrad.cg(rtol=1e-5),
        "optlab gmres": hypergrad.gmres(),
        "optlab neumann 1000": hypergrad.neumann(1000, step),
        "optlab one_step": hypergrad.one_step(step),
        "optlab exact": hypergrad.exact(),
    }
    methods = {label: _ours(estimator, problem) for label, estimator in methods.items()}
    if "jaxopt" in PEERS:
        import jaxopt

        optimality = jax.grad(problem.inner, argnums=1)

        def given(solve):
            @jaxopt.implicit_diff.custom_root(lambda y, x, b: optimality(x, y, b), solve=solve)
            def solution(y, x, batch):
                del x, batch
                return y

            return _through(lambda x, y, batch: solution(y, x, batch), problem)

        def tight(matvec, b):
            return jaxopt.linear_solve.solve_cg(matvec, b, tol=1e-10)

        methods |= {
            "jaxopt default (normal_cg)": given(None),
            "jaxopt solve_cg": given(jaxopt.linear_solve.solve_cg),
            "jaxopt solve_cg, tol 1e-10": given(tight),
            "jaxopt solve_gmres": given(jaxopt.linear_solve.solve_gmres),
            "jaxopt solve_lu": given(jaxopt.linear_solve.solve_lu),
        }
    return methods


def end_to_end(problem) -> dict:
    """Methods that start from y, solve the inner problem to 1e-8, and differentiate."""
    estimator = hypergrad.cg()

    def ours(optimizer):
        minimize = implicit.minimize(optimizer, max_steps=500, tol=1e-8)

        def method(x, y, outer_batch, inner_batch):
            y = minimize(lambda y: problem.inner(x, y, inner_batch), y)
            return _ours(estimator, problem)(x, y, outer_batch, inner_batch)

        return method

    methods = {
        "optlab lbfgs + cg": ours(optax.lbfgs()),
        # Newton-like steps of one need no search where the inner problem is strongly convex.
        "optlab lbfgs, unit steps + cg": ours(optax.lbfgs(1.0, linesearch=None)),
    }
    solutions = _peers(problem)
    return methods | {label: _through(solutions[label], problem) for label in solutions}


def _peers(problem) -> dict:
    """Differentiable inner solutions ``(x, y, batch) -> y`` of other libraries."""
    solutions = {}
    if "jaxopt" in PEERS:
        import jaxopt

        inner = lambda y, x, b: problem.inner(x, y, b)  # noqa: E731
        solver = jaxopt.LBFGS(inner, maxiter=500, tol=1e-8)
        solutions["jaxopt LBFGS, default"] = lambda x, y, b: solver.run(y, x, b).params
    if "optimistix" in PEERS:
        import lineax
        import optimistix

        positive = frozenset({lineax.positive_semidefinite_tag})

        def solution(adjoint, tags):
            def solve(x, y, batch):
                solver = optimistix.LBFGS(rtol=1e-8, atol=1e-8)
                fn = lambda y, args: problem.inner(args[0], y, args[1])  # noqa: E731
                return optimistix.minimise(
                    fn, solver, y, (x, batch), max_steps=500, adjoint=adjoint, tags=tags,
                    throw=False,
                ).value  # fmt: skip

            return solve

        cg = optimistix.ImplicitAdjoint(lineax.CG(rtol=1e-10, atol=1e-10))
        dense = optimistix.ImplicitAdjoint()
        solutions["optimistix LBFGS + lineax CG"] = solution(cg, positive)
        solutions["optimistix LBFGS, default"] = solution(dense, frozenset())
    return solutions


def few_shot(dtype) -> HypergradientProblem:
    """Meta-learning on the ridge data: 64 tasks of ten rows, pulled towards a common x, zero.

    ``inner`` and the solutions that :func:`tasks` differentiates are of one task; ``outer`` is the
    mean over all.
    """
    count, shots, strength = 64, 10, 0.1
    data = hypergradient_problem("ridge_bc", dtype)
    rng = np.random.default_rng(0)

    def draw(batch):
        rows = rng.integers(0, batch[0].shape[0], (count, shots))
        return jax.tree.map(lambda a: a[rows], batch)

    train, held_out = draw(data.inner_batch), draw(data.outer_batch)

    def loss(y, batch):
        return 0.5 * jnp.mean((batch[0] @ y - batch[1]) ** 2)

    def inner(x, y, batch):
        return loss(y, batch) + 0.5 * strength * jnp.sum((y - x) ** 2)

    def outer(x, y, batch):
        del x
        return jnp.mean(jax.vmap(loss)(y, batch))

    (a, b), (c, d) = jax.tree.map(lambda array: np.asarray(array, np.float64), (train, held_out))
    transposed = a.swapaxes(1, 2) / shots
    hessian = transposed @ a + strength * np.eye(a.shape[-1])
    y = np.linalg.solve(hessian, transposed @ b[..., None])  # where x is zero
    slope = c.swapaxes(1, 2) @ (c @ y - d[..., None]) / shots
    hypergradient = strength * np.linalg.solve(hessian, slope)[..., 0].mean(axis=0)
    smoothness = np.linalg.norm(hessian, 2, axis=(1, 2)).max()
    x, y = jnp.zeros_like(data.x), jnp.zeros((count, data.x.size), dtype)
    return HypergradientProblem(outer, inner, x, y, held_out, train, hypergradient, smoothness)


def tasks(problem) -> dict:
    """Methods that solve the inner problems under vmap, and differentiate through that."""
    solutions = {}
    minimize = implicit.minimize(optax.lbfgs(1.0, linesearch=None), max_steps=500, tol=1e-8)
    for on_fail in ("nan", "ignore"):
        argmin = implicit.argmin(
            lambda y, x, batch: problem.inner(x, y, batch), minimize, on_fail=on_fail
        )
        label = "optlab argmin" + (", unchecked" if on_fail == "ignore" else "")
        solutions[label] = lambda x, y, batch, argmin=argmin: argmin(y, x, batch)
    descend = jax.grad(problem.inner, argnums=1)

    def unrolled(x, y, batch):
        step = lambda y, _: (y - descend(x, y, batch) / problem.smoothness, None)  # noqa: E731
        return jax.lax.scan(step, y, length=1000)[0]

    solutions["plain jax, 1000 unrolled steps"] = unrolled
    solutions |= _peers(problem)
    return {
        label: _through(jax.vmap(solution, (None, 0, 0)), problem)
        for label, solution in solutions.items()
    }


def unrolling(problem, steps: int) -> dict:
    """Gradient descent from y, differentiated."""
    sgd = optax.sgd(1 / problem.smoothness)
    return {
        "optlab unrolled": _ours(hypergrad.unrolled(sgd, steps), problem),
        "optlab unrolled, checkpoints": _ours(
            hypergrad.unrolled(sgd, steps, checkpoint="sqrt"), problem
        ),
    }
