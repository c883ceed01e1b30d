"""The catalogue of differentiable solutions: a solver by other means, and our derivative of it."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optlab import implicit
from optlab.implicit import conditions, prox

__all__ = ["CASES", "Case"]


class Case(NamedTuple):
    """A solution as a function of a vector of parameters, differentiable by a condition."""

    solution: Callable[[jax.Array], jax.Array]
    theta: np.ndarray  # where to differentiate: no constraint is about to change


def _data(seed, rows=12, columns=4):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(rows, columns))), jnp.asarray(rng.normal(size=rows))


def _iterate(step, steps=3000):
    """Runs a fixed number of steps of a map: a solver that shares nothing with the derivative."""

    def solver(init, *args):
        return jax.lax.fori_loop(0, steps, lambda _, x: step(x, *args), init)

    return solver


def ridge() -> Case:
    a, b = _data(0)

    def fun(x, t):
        return 0.5 * jnp.mean((a @ x - b) ** 2) + 0.5 * jnp.sum(jnp.exp(t) * x**2)

    def closed(init, t):
        return jnp.linalg.solve(a.T @ a / 12 + jnp.diag(jnp.exp(t)), a.T @ b / 12)

    solve = implicit.custom_root(conditions.stationarity(fun))(closed)
    return Case(lambda t: solve(None, t), np.linspace(-2, 0, 4))


def lasso() -> Case:
    a, b = _data(1)

    def fun(x, t):
        return 0.5 * jnp.mean((a @ x - b * t[1]) ** 2)

    def step(x, t):
        return prox.lasso(x - 0.2 * jax.grad(fun)(x, t), 0.2, weight=t[0])

    F = conditions.proximal_gradient(
        fun, lambda v, s, t: prox.lasso(v, s, weight=t[0]), step_size=0.5, parametric=True
    )
    solve = implicit.custom_root(F)(_iterate(step))
    return Case(lambda t: solve(jnp.zeros(4), t), np.array([0.1, 1.0]))


def simplex() -> Case:
    a, b = _data(2)

    def fun(x, t):
        return 0.5 * jnp.mean((a @ x - b * t[0]) ** 2) + t[1] * jnp.sum(x**2)

    project = optax.projections.projection_simplex
    F = conditions.projected_gradient(fun, project, step_size=0.3)
    step = lambda x, t: project(x - 0.1 * jax.grad(fun)(x, t))  # noqa: E731
    solve = implicit.custom_root(F)(_iterate(step))
    return Case(lambda t: solve(jnp.full(4, 0.25), t), np.array([1.0, 0.1]))


def quadratic_program() -> Case:
    rng = np.random.default_rng(3)
    root = jnp.asarray(rng.normal(size=(4, 4)))
    Q, A, G = root @ root.T + jnp.eye(4), jnp.ones((1, 4)), -jnp.eye(4)

    def solution(t):
        point, _ = implicit.quadratic_program(
            Q + t[4] * jnp.eye(4), t[:4], A, t[5:], G, t[4] * jnp.ones(4)
        )
        return jnp.concatenate([point.x, point.equality, point.inequality])

    return Case(solution, np.array([1.0, -2.0, 0.5, 3.0, 0.1, 1.0]))


def group_lasso() -> Case:
    a, b = _data(4, columns=6)

    def fun(x, t):
        return 0.5 * jnp.mean((a @ x.reshape(6) - b * t[1]) ** 2)

    def operator(v, s, t):
        return prox.group_lasso(v, s, weight=t[0], axis=1)

    step = lambda x, t: operator(x - 0.2 * jax.grad(fun)(x, t), 0.2, t)  # noqa: E731
    F = conditions.proximal_gradient(fun, operator, parametric=True)
    solve = implicit.custom_root(F)(_iterate(step))
    return Case(lambda t: solve(jnp.zeros((3, 2)), t), np.array([0.15, 1.0]))


def sinkhorn() -> Case:
    rng = np.random.default_rng(5)
    cost = jnp.asarray(rng.random((4, 3)))
    a, b = jnp.full(4, 0.25), jnp.asarray([0.5, 0.3, 0.2])

    def step(f, t):
        """Log-domain scaling; the potentials' free constant is taken out."""
        kernel = -cost * t[0] - jnp.arange(4.0)[:, None] * t[1]
        g = jnp.log(b) - jax.nn.logsumexp(kernel + f[:, None], axis=0)
        f = jnp.log(a) - jax.nn.logsumexp(kernel + g[None, :], axis=1)
        return f - jnp.mean(f)

    solve = implicit.custom_fixed_point(step)(_iterate(step, 500))
    return Case(lambda t: solve(jnp.zeros(4), t), np.array([2.0, 0.3]))


def deep_equilibrium() -> Case:
    rng = np.random.default_rng(6)
    w, u = jnp.asarray(rng.normal(size=(5, 5))) * 0.25, jnp.asarray(rng.normal(size=5))

    def step(z, t):
        return {"z": jnp.tanh(w @ z["z"] * t[0] + t[1] * u)}

    solve = implicit.custom_fixed_point(step)(_iterate(step, 500))
    return Case(lambda t: solve({"z": jnp.zeros(5)}, t)["z"], np.array([0.8, 0.5]))


def svm_dual() -> Case:
    """Multiclass SVM in its dual: a simplex per example."""
    rng = np.random.default_rng(7)
    a = jnp.asarray(rng.normal(size=(6, 3)))
    y = jax.nn.one_hot(jnp.arange(6) % 3, 3)

    def fun(x, t):
        w = a.T @ (y - x)
        return 0.5 * jnp.sum(w * w) / t[0] + jnp.vdot(x, y) * t[1]

    project = jax.vmap(optax.projections.projection_simplex)
    step = lambda x, t: project(x - 0.1 * jax.grad(fun)(x, t))  # noqa: E731
    F = conditions.projected_gradient(fun, project, step_size=0.2)

    def weights(x, t):
        return (a.T @ (y - x) / t[0]).ravel()

    solve = implicit.custom_root(F, linear_solver="gmres")(_iterate(step, 20_000))
    return Case(lambda t: weights(solve(jnp.full((6, 3), 1 / 3), t), t), np.array([2.0, 1.0]))


def constrained() -> Case:
    """KKT with an equality and inequalities, one of them active; solved as a quadratic program."""

    def fun(x, t):
        return 0.5 * jnp.sum((x - t[:3]) ** 2)

    F = conditions.kkt(
        fun,
        equality=lambda x, t: jnp.sum(x) - t[3],
        inequality=lambda x, t: {"low": -x, "high": x - 2.0},
    )

    @implicit.custom_root(F)
    def solve(init, t):
        point, _ = implicit.quadratic_program(
            jnp.eye(3),
            -t[:3],
            jnp.ones((1, 3)),
            t[3:],
            jnp.concatenate([-jnp.eye(3), jnp.eye(3)]),
            jnp.repeat(jnp.array([0.0, 2.0]), 3),
        )
        dual = {"low": point.inequality[:3], "high": point.inequality[3:]}
        return conditions.KktPoint(point.x, point.equality[0], dual)

    return Case(lambda t: solve(None, t).x, np.array([0.3, 1.2, -0.9, 1.1]))


def mirror() -> Case:
    a, b = _data(8)

    def fun(x, t):
        return 0.5 * jnp.mean((a @ x - b * t[0]) ** 2) + t[1] * jnp.sum(x * jnp.log(x))

    F = conditions.mirror_descent(fun, jax.nn.softmax, jnp.log)
    step = lambda x, t: jax.nn.softmax(jnp.log(x) - 0.3 * jax.grad(fun)(x, t))  # noqa: E731
    solve = implicit.custom_root(F)(_iterate(step))
    return Case(lambda t: solve(jnp.full(4, 0.25), t), np.array([1.0, 0.3]))


def blocks() -> Case:
    a, b = _data(9)

    def fun(x, t):
        return 0.5 * jnp.mean((a @ jnp.append(x["u"], x["v"]) - b * t[1]) ** 2)

    proxes = {
        "u": lambda v, s, t: prox.lasso(v, s, weight=t[0]),
        "v": lambda v, s, t: jax.nn.relu(v),
    }
    F = conditions.block_proximal_gradient(fun, proxes, parametric=True)

    def step(x, t):
        g = jax.grad(fun)(x, t)
        return {k: proxes[k](x[k] - 0.2 * g[k], 0.2, t) for k in x}

    solve = implicit.custom_root(F)(_iterate(step))
    start = {"u": jnp.zeros(3), "v": jnp.ones(1)}
    return Case(lambda t: jnp.append(*solve(start, t).values()), np.array([0.05, 1.0]))


def newton() -> Case:
    def equation(x, t):
        return jnp.stack([x[0] ** 2 + x[1] - t[0], x[0] + jnp.exp(x[1]) - t[1]])

    def step(x, t):
        return x - jnp.linalg.solve(jax.jacfwd(equation)(x, t), equation(x, t))

    solve = implicit.custom_root(conditions.newton(equation))(_iterate(step, 30))
    return Case(lambda t: solve(jnp.array([1.0, 0.0]), t), np.array([1.5, 2.5]))


def curve_fit() -> Case:
    s = jnp.linspace(0, 1, 7)

    def residuals(x, t):
        return x[0] * jnp.exp(x[1] * s) - t[0] * jnp.sin(3 * s) - t[1]

    solve = implicit.least_squares(residuals, tol=1e-14)
    return Case(lambda t: solve(jnp.array([1.0, 0.1]), t), np.array([1.0, 0.7]))


def cone_program() -> Case:
    """min c.z where z lies in a ball: a second-order cone, in closed form."""
    c = jnp.array([1.0, 2.0])

    def problem(t):
        # (z - center, radius) in the cone: s = d - E z, with rows (-z, 0).
        return c, jnp.concatenate([-jnp.eye(2), jnp.zeros((1, 2))]), jnp.append(-t[:2], t[2])

    F = conditions.conic_residual(implicit.projections.second_order_cone)

    @implicit.custom_root(F)
    def solve(init, c, E, d):
        unit = c / jnp.linalg.norm(c)
        dual, slack = jnp.append(c, jnp.linalg.norm(c)), jnp.append(-unit, 1.0) * d[2]
        return conditions.ConicPoint(-d[:2] - unit * d[2], dual - slack)

    return Case(lambda t: solve(None, *problem(t)).z, np.array([0.5, -1.0, 2.0]))


CASES = {
    maker.__name__: functools.cache(maker)
    for maker in (
        ridge,
        lasso,
        simplex,
        quadratic_program,
        group_lasso,
        sinkhorn,
        deep_equilibrium,
        svm_dual,
        constrained,
        mirror,
        blocks,
        newton,
        curve_fit,
        cone_program,
    )
}
