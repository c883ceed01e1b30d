"""Hypergradients of optlab and of its peers, behind one signature.

A method is ``f(x, y, outer_batch, inner_batch) -> (hypergradient, failed)``; ``failed`` is None of
those that cannot say. y is the inner
solution, or where to start from.
"""

import importlib.util

import jax
import optax

from optlab import hypergrad, implicit

__all__ = ["end_to_end", "given_solution", "unrolling"]

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
    if "jaxopt" in PEERS:
        import jaxopt

        inner = lambda y, x, b: problem.inner(x, y, b)  # noqa: E731
        solver = jaxopt.LBFGS(inner, maxiter=500, tol=1e-8)
        solution = lambda x, y, b: solver.run(y, x, b).params  # noqa: E731
        methods["jaxopt LBFGS, default"] = _through(solution, problem)
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
        methods["optimistix LBFGS + lineax CG"] = _through(solution(cg, positive), problem)
        methods["optimistix LBFGS, default"] = _through(solution(dense, frozenset()), problem)
    return methods


def unrolling(problem, steps: int) -> dict:
    """Gradient descent from y, differentiated."""
    sgd = optax.sgd(1 / problem.smoothness)
    return {
        "optlab unrolled": _ours(hypergrad.unrolled(sgd, steps), problem),
        "optlab unrolled, checkpoints": _ours(
            hypergrad.unrolled(sgd, steps, checkpoint="sqrt"), problem
        ),
    }
