"""The numbers: dtypes, compilation, batching, odd trees, extreme gradients, convergence."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.contract.case import (
    Case,
    avals,
    expect,
    expect_close,
    expect_finite,
    like,
    small_tree,
    tree,
)

__all__ = [
    "check_bfloat16",
    "check_convergence",
    "check_empty_tree",
    "check_gradient_scales",
    "check_jit_equals_eager",
    "check_mixed_dtypes",
    "check_nested_and_none",
    "check_scalar_tree",
    "check_scan_equals_loop",
    "check_vmap_equals_loop",
    "check_x64",
    "check_zero_size_leaf",
]

LOW_PRECISION = (
    2.0**-5
)  # of a bfloat16 update, relative to the largest: four units in the last place


def _gradients(params, count: int = 3) -> list:
    return [like(params, seed=seed) for seed in range(1, 1 + count)]


def _cast(values, dtype):
    return jax.tree.map(lambda x: x.astype(dtype), values)


def _stack(trees: list):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _expect_types(case: Case, params, gradients, what: str) -> None:
    """Traces a step and expects structure and types to be kept."""
    state = case.tx.init(params)
    updates, new_state = jax.eval_shape(case.update, gradients, state, params)
    same = jax.tree.structure(updates) == jax.tree.structure(gradients)
    expect(same, f"{what}: the updates have another structure than the gradients.")
    found, want = ([(x.shape, x.dtype) for x in jax.tree.leaves(t)] for t in (updates, gradients))
    expect(found == want, f"{what}: the updates are {found}, the gradients {want}.")
    expect(avals(new_state) == avals(state), f"{what}: the types of the state change in a step.")


def _expect_step(case: Case, params, gradients, what: str):
    """Takes that step, expects finite values, and returns the updates."""
    _expect_types(case, params, gradients, what)
    updates, new_state = case.update(gradients, case.tx.init(params), params)
    expect_finite((updates, new_state), what)
    return updates


def check_bfloat16(case: Case) -> None:
    """A tree in bfloat16 keeps its dtype and gets the float32 tree's update, rounded."""
    many = tree(jnp.bfloat16)
    _expect_types(case, many, like(many, seed=1), "In bfloat16")
    params, gradients = _cast((small_tree(), like(small_tree(), seed=1)), jnp.bfloat16)
    low = _expect_step(case, params, gradients, "In bfloat16")
    high = _expect_step(case, *_cast((params, gradients), jnp.float32), "In float32")
    expect_close(low, high, "In bfloat16", rtol=LOW_PRECISION)


def check_mixed_dtypes(case: Case) -> None:
    """Each leaf keeps its dtype, and gradients in bfloat16 leave the state's types alone."""
    params = small_tree()
    mixed = params | {"low": tree(jnp.bfloat16)["dense"]}
    _expect_types(case, mixed, like(mixed, seed=1), "With mixed dtypes")
    state = case.tx.init(params)
    gradients = _cast(like(params, seed=1), jnp.bfloat16)
    updates, new_state = case.update(gradients, state, params)
    same = avals(new_state) == avals(state)
    expect(same, "bfloat16 gradients of float32 params change the types of the state.")
    expect_finite((updates, new_state), "With bfloat16 gradients of float32 params")


def check_x64(case: Case) -> None:
    """With 64-bit types enabled float32 trees stay float32, and float64 trees float64."""
    params = small_tree()
    want = _expect_step(case, params, like(params, seed=1), "In float32")
    with jax.enable_x64(True):
        # Fresh functions: one that was traced with 64-bit types disabled is not traced again.
        init, update = (jax.jit(lambda *a, f=f: f(*a)) for f in (case.tx.init, case.tx.update))
        for dtype in (jnp.float32, jnp.float64):
            x, g = _cast((params, like(params, seed=1)), dtype)
            state = case.tx.init(x)
            same = avals(jax.eval_shape(init, x)) == avals(state)
            expect(same, f"jit(init) differs from init at {dtype}.")
            updates, new_state = jax.eval_shape(update, g, state, x)
            dtypes = {leaf.dtype for leaf in jax.tree.leaves(updates)}
            expect(dtypes == {jnp.dtype(dtype)}, f"x64: {dtype.__name__} updates become {dtypes}.")
            expect(
                avals(new_state) == avals(state), "x64: the types of the state change in a step."
            )
            wide = [leaf for leaf in jax.tree.leaves(new_state) if leaf.dtype == jnp.float64]
            if dtype == jnp.float32:
                expect(not wide, "x64: float32 params get float64 state.")
        expect_close(update(g, state, x)[0], want, "x64: float64 updates")


def check_jit_equals_eager(case: Case) -> None:
    """Compiled and eager steps agree."""
    params = small_tree()
    gradients = _gradients(params, 2)
    eager = case.run(params, gradients, case.tx.update)
    expect_close(case.run(params, gradients), eager, "Under jit")


def check_scan_equals_loop(case: Case) -> None:
    """Steps in one lax.scan agree with a Python loop of steps."""
    params = small_tree()
    gradients = _gradients(params)

    def step(carry, gradient):
        params, state = carry
        updates, state = case.tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), updates

    scan = jax.jit(lambda carry, gradients: jax.lax.scan(step, carry, gradients))
    try:
        (_, state), found = scan((params, case.tx.init(params)), _stack(gradients))
    except TypeError as error:
        raise AssertionError(f"The state cannot be carried by a scan: {error}") from error
    want, last = case.run(params, gradients)
    expect_close((found, state), (_stack(want), last), "In a scan")


def check_vmap_equals_loop(case: Case) -> None:
    """A batch of problems under vmap agrees with a loop over the problems."""
    problems = [(small_tree(seed=seed), like(small_tree(), seed=10 + seed)) for seed in range(2)]

    def step(params, gradients):
        state = case.tx.init(params)
        return case.tx.update(gradients, state, params)

    batched = jax.jit(jax.vmap(step))(*_stack(problems))
    for i, (params, gradients) in enumerate(problems):
        want = case.update(gradients, case.tx.init(params), params)
        expect_close(jax.tree.map(lambda x, i=i: x[i], batched), want, "Under vmap")


def check_empty_tree(case: Case) -> None:
    """A tree without leaves is a tree."""
    _expect_types(case, {}, {}, "With an empty tree")


def check_scalar_tree(case: Case) -> None:
    """A single scalar is a tree."""
    _expect_types(case, jnp.ones(()), jnp.ones(()), "With a scalar for a tree")


def check_nested_and_none(case: Case) -> None:
    """None leaves, empty containers and nested tuples, lists and dicts pass through."""
    leaf = jnp.ones((4, 8))
    params = {"none": None, "empty": {}, "nested": ({"a": leaf}, [(leaf[0], None), ()])}
    _expect_types(case, params, like(params, seed=1), "With None leaves and empty containers")


def check_zero_size_leaf(case: Case) -> None:
    """A leaf of no elements passes through, whatever its number of dimensions."""
    params = {"a": jnp.ones((0, 3)), "b": jnp.ones((0,)), "c": jnp.ones((3, 0)), "w": jnp.ones(8)}
    _expect_step(case, params, like(params, seed=1), "With zero-size leaves")


def check_gradient_scales(case: Case) -> None:
    """Gradients of every scale, with zero rows, zero leaves or rank one, give finite numbers."""
    params = tree()
    normal = like(params, seed=1)
    streams = {
        f"scale {scale:g}": jax.tree.map(lambda g, s=scale: s * g, normal)
        for scale in (0.0, 1e-30, 1e-12, 1e-6, 1.0, 1e6)
    }
    streams["rank one"] = jax.tree.map(jnp.ones_like, normal)
    streams["a zero leaf"] = normal | {"dense": jax.tree.map(jnp.zeros_like, normal["dense"])}
    kernel = normal["dense"]["kernel"].at[0].set(0.0)
    streams["a zero row"] = normal | {"dense": normal["dense"] | {"kernel": kernel}}
    for name, gradients in streams.items():
        for start in (params, jax.tree.map(jnp.zeros_like, params)):
            expect_finite(case.run(start, [gradients] * 2), f"With gradients of {name}")
    swing = [streams[f"scale {scale}"] for scale in ("0", "1e+06", "0", "1e-30", "1")]
    expect_finite(case.run(params, swing), "With gradients that swing from 0 to 1e6")


def check_convergence(case: Case) -> None:
    """The loss of a small quadratic falls to a hundredth under a falling learning rate."""
    # A method whose own rate is higher, as one that finds its step size, keeps it.
    steps, rate = 400, max(0.05, case.arguments["learning_rate"])
    target, params = like(small_tree(), seed=3, scale=0.5), small_tree()
    curvature = jax.tree.map(lambda p: jnp.linspace(0.5, 2.0, p.size).reshape(p.shape), params)
    tx = case.make(learning_rate=optax.linear_schedule(rate, 0.0, steps))

    def loss(params):
        errors = jax.tree.map(
            lambda h, x, c: 0.5 * jnp.sum(h * (x - c) ** 2), curvature, params, target
        )
        return jax.tree.reduce(jnp.add, errors)

    def step(carry, _):
        params, state = carry
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), value

    _, losses = jax.jit(lambda c: jax.lax.scan(step, c, length=steps))((params, tx.init(params)))
    first, last = np.asarray(losses)[[0, -1]]
    expect(
        last < 0.01 * first, f"In {steps} steps the loss falls from {first:.3g} to {last:.3g} only."
    )
