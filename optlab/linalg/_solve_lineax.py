"""The solvers of lineax, behind the same face as ours.

lineax is imported where it is used: ``import optlab`` stays light, and works where it is missing.
"""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optlab.base import PyTree, Scalar
from optlab.linalg._solve_krylov import Run, run_of

__all__ = ["is_lineax", "lineax_method", "run_lineax", "tags_of"]

Map = Callable[[PyTree], PyTree]


def is_lineax(method: Any) -> bool:
    """Whether a method is a solver of lineax, which is then imported already."""
    lx = sys.modules.get("lineax")
    return lx is not None and isinstance(method, lx.AbstractLinearSolver)


def tags_of(solver: Any) -> Any:
    """Two solvers of lineax refuse a matrix that is not said to be definite."""
    import lineax as lx

    return lx.positive_semidefinite_tag if isinstance(solver, (lx.CG, lx.Cholesky)) else ()


def lineax_method(name: str, tolerance: Scalar, max_steps: jax.Array, restart: int):
    """Makes the solver of a name, with the tags that it asks of its matrix, for a unit b.

    lineax compares component-wise with ``atol + rtol |b_i|``. With a two-norm, and half the
    tolerance for each, the residual's norm is within the tolerance.
    """
    import lineax as lx

    half = {"rtol": 0.5 * tolerance, "atol": 0.5 * tolerance, "norm": optax.tree.norm}
    if name == "gmres":
        cycles = -(-max_steps // restart) + 1  # lineax's first cycle does nothing
        # A cycle that gains nothing is the last: restarting from the same residual repeats it.
        solver = lx.GMRES(**half, max_steps=cycles, restart=restart, stagnation_iters=2)
        return solver, ()
    if name == "cholesky":
        return lx.Cholesky(), lx.positive_semidefinite_tag
    return lx.LU(), ()


def run_lineax(
    make_solver: Callable, product: Map, b: PyTree, threshold: Scalar, preconditioner: Map | None
) -> Run:
    """Solves the system scaled to a unit right-hand side: lineax's breakdown test is absolute."""
    import lineax as lx

    norm = optax.tree.norm(b)
    scale = jnp.where(norm > 0, norm, 1)
    unit = optax.tree.scale(1 / scale, b)  # zero where b is
    solver, tags = make_solver(threshold / scale)
    structure = jax.eval_shape(lambda: b)
    operator = lx.FunctionLinearOperator(product, structure, tags)
    options = {}
    if preconditioner is not None:
        options["preconditioner"] = lx.FunctionLinearOperator(
            preconditioner, structure, lx.positive_semidefinite_tag
        )
    solution = lx.linear_solve(operator, unit, solver, options=options, throw=False)
    steps = solution.stats.get("num_steps")
    if steps is None:  # a direct solver: one product a column
        steps = sum(leaf.size for leaf in jax.tree.leaves(b))
    elif isinstance(solver, lx.GMRES):
        steps = (steps - 1) * min(solver.restart, sum(leaf.size for leaf in jax.tree.leaves(b)))
    return run_of(optax.tree.scale(scale, solution.value), steps)
