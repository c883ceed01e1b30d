"""The transformation protocol: what goes in and out, and what a state may be."""

import functools
import operator
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.contract.case import (
    Case,
    avals,
    expect,
    expect_identical,
    like,
    program,
    small_tree,
    tree,
)

__all__ = [
    "check_donation",
    "check_extra_arguments_ignored",
    "check_one_trace",
    "check_pure",
    "check_state_bytes",
    "check_state_is_arrays",
    "check_state_never_aliases",
    "check_state_types_fixed",
    "check_updates_like_gradients",
]


def _example(case: Case):
    params = small_tree()  # for what is not compiled, each operation is, at each shape
    return params, like(params, seed=1), case.tx.init(params)


def check_updates_like_gradients(case: Case) -> None:
    """Updates have the gradients' structure, shapes and dtypes."""
    expect(
        isinstance(case.tx, optax.GradientTransformation), "The factory gives no optax transform."
    )
    params = tree()
    gradients = like(params, seed=1)
    updates, _ = case.update(gradients, case.tx.init(params), params)
    expect_same = jax.tree.structure(updates) == jax.tree.structure(gradients)
    expect(expect_same, "The updates have another structure than the gradients.")
    for u, g in zip(jax.tree.leaves(updates), jax.tree.leaves(gradients), strict=True):
        expect(
            (u.shape, u.dtype) == (g.shape, g.dtype),
            f"An update is {u.dtype}{u.shape} where its gradient is {g.dtype}{g.shape}.",
        )


def check_extra_arguments_ignored(case: Case) -> None:
    """Extra keyword arguments that the optimizer does not know change nothing."""
    params, gradients, state = _example(case)
    inputs = gradients, state, params
    update = optax.with_extra_args_support(case.tx).update
    extra = {"value": jnp.ones(()), "unknown": jnp.ones(3)}
    same = program(functools.partial(update, **extra), *inputs) == program(case.tx.update, *inputs)
    expect(same, "With extra arguments another program is traced.")


def check_state_is_arrays(case: Case) -> None:
    """A state holds jax arrays only, and random keys as raw key data."""
    for leaf in jax.tree.leaves(_example(case)[2]):
        expect(
            isinstance(leaf, jax.Array), f"The state holds a {type(leaf).__name__}, not an array."
        )
        typed_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        expect(not typed_key, "The state holds a typed random key; keep its jax.random.key_data.")


def check_state_types_fixed(case: Case) -> None:
    """Structure, shapes, dtypes and weak types of the state are those of init, for good."""
    for params, update in ((small_tree(), case.tx.update), (tree(), case.update)):
        gradients, state = like(params, seed=1), case.tx.init(params)
        want, structure = avals(state), jax.tree.structure(state)
        found = {
            "jit(init)": jax.eval_shape(case.tx.init, params),
            "update": update(gradients, state, params)[1],
        }
        for name, new in found.items():
            same = jax.tree.structure(new) == structure
            expect(same, f"{name} gives a state of another structure: {jax.tree.structure(new)}.")
            expect(avals(new) == want, f"{name} gives a state of types {avals(new)}, init {want}.")


def check_state_never_aliases(case: Case) -> None:
    """No state leaf shares its buffer with a parameter, a gradient or another state leaf."""
    params, gradients, state = _example(case)
    _, later = case.tx.update(gradients, state, params)
    many = tree()
    pairs = {"init": (many, case.tx.init(many)), "update": ((params, gradients), later)}
    for name, (given, new) in pairs.items():
        shared = _buffers(new).keys() & _buffers(given).keys()
        expect(not shared, f"After {name} the state aliases the params or the gradients.")
        distinct = len(_buffers(new)) == len(jax.tree.leaves(new))
        expect(distinct, f"After {name} two leaves of the state share one buffer.")


def _buffers(values) -> dict:
    return {leaf.unsafe_buffer_pointer(): leaf.shape for leaf in jax.tree.leaves(values)}


def check_donation(case: Case) -> None:
    """Params and state can be donated together, and every donated buffer is used again."""
    params = tree()
    gradients, state = like(params, seed=1), case.tx.init(params)

    def step(params, state, gradients):
        updates, state = case.tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    # Lowered, what finds no use is known; the check of a linen train state takes donated steps.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            jax.jit(step, donate_argnums=(0, 1)).lower(params, state, gradients)
    except UserWarning as error:
        raise AssertionError(f"Params and state cannot be donated: {error}") from error
    distinct = len(_buffers((params, state))) == len(jax.tree.leaves((params, state)))
    expect(distinct, "Params and state cannot be donated: two leaves share one buffer.")


def check_one_trace(case: Case) -> None:
    """Many steps trace the update once, under a schedule too."""
    rate = case.arguments["learning_rate"]
    tx = case.make(learning_rate=optax.linear_schedule(rate, 0.0, transition_steps=4))
    traces = 0

    def update(gradients, state, params):
        nonlocal traces
        traces += 1
        return tx.update(gradients, state, params)

    params = small_tree()
    state, step = tx.init(params), jax.jit(update)
    for _ in range(3):  # traced anew where a type of the state has changed
        _, state = jax.eval_shape(step, params, state, params)
    expect(traces == 1, f"Three steps with a schedule took {traces} traces, not one.")


def check_pure(case: Case) -> None:
    """Updates from the same inputs agree bit for bit, leave these alone and keep no tracer."""
    params, gradients, _ = _example(case)
    state = case.tx.init(params)
    expect_identical(case.tx.init(params), state, "A second init from the same params")
    before = jax.tree.map(np.array, (gradients, state, params))
    first = case.tx.update(gradients, state, params)
    case.tx.init({"another": params})
    second = case.tx.update(gradients, state, params)
    expect_identical(second, first, "A second update from the same inputs")
    expect_identical((gradients, state, params), before, "The inputs after two updates")
    traced = (program(case.tx.update, gradients, state, params) for _ in range(2))
    expect(operator.eq(*traced), "A second trace gives another program.")
    with jax.checking_leaks():
        try:
            jax.eval_shape(lambda *inputs: case.tx.update(*inputs), gradients, state, params)
        except Exception as error:
            expect("Leaked" not in str(error), f"The update keeps a tracer: {error}")
            raise


def check_state_bytes(case: Case) -> None:
    """A large float32 matrix costs the promised bytes of state, up to some scalars."""
    matrix = jax.ShapeDtypeStruct((512, 1024), jnp.float32)
    leaves = jax.tree.leaves(jax.eval_shape(case.tx.init, {"w": matrix}))
    found = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / matrix.size
    expect(
        abs(found - case.state_bytes) <= 1e-3 + 1e-2 * case.state_bytes,
        f"The state takes {found:.4g} bytes per parameter, {case.state_bytes:.4g} are promised.",
    )
