"""Each wrapper of optax around the optimizer does what its documentation says."""

import jax
import jax.numpy as jnp
import optax

from tests.contract.case import (
    Case,
    expect,
    expect_close,
    expect_finite,
    expect_identical,
    like,
    small_tree,
)

__all__ = [
    "check_apply_if_finite",
    "check_chain",
    "check_conditionally_transform",
    "check_flatten",
    "check_inject_hyperparams",
    "check_lookahead",
    "check_map_params",
    "check_masked",
    "check_multi_steps",
    "check_partition",
]


def _steps(tx, params, gradients: list, *, eager: bool = False) -> list:
    """Gives the updates of a few steps, compiled if not eager."""
    update = tx.update if eager else jax.jit(tx.update)
    state, found = tx.init(params), []
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        found.append(updates)
    return found


def _example(count: int = 2):
    params = small_tree()
    return params, [like(params, seed=seed) for seed in range(1, 1 + count)]


def _kernels(params, gradients: list):
    return {"kernel": params["kernel"]}, [{"kernel": g["kernel"]} for g in gradients]


def check_chain(case: Case) -> None:
    """In chain the optimizer acts on what stands before it."""
    params, gradients = _example()
    halves = jax.tree.map(lambda g: 0.5 * g, gradients)
    want = _steps(case.tx, params, halves)
    found = _steps(optax.chain(optax.scale(0.5), case.tx), params, gradients)
    expect_close(found, want, "In optax.chain")


def check_masked(case: Case) -> None:
    """Under masked the optimizer sees the chosen leaves only, and the others pass through."""
    params, gradients = _example()
    found = _steps(optax.masked(case.tx, {"bias": False, "kernel": True}), params, gradients)
    want = _steps(case.tx, *_kernels(params, gradients))
    want = [{"bias": g["bias"], **u} for g, u in zip(gradients, want, strict=True)]
    expect_close(found, want, "Under optax.masked")


def check_partition(case: Case) -> None:
    """Under partition the optimizer serves its own leaves beside another optimizer."""
    params, gradients = _example()
    tx = optax.partition(
        {"method": case.tx, "sgd": optax.sgd(0.1)}, {"bias": "sgd", "kernel": "method"}
    )
    want = _steps(case.tx, *_kernels(params, gradients), eager=True)
    want = [{"bias": -0.1 * g["bias"], **u} for g, u in zip(gradients, want, strict=True)]
    expect_close(_steps(tx, params, gradients), want, "Under optax.partition")


def check_multi_steps(case: Case) -> None:
    """MultiSteps takes one step of the mean gradient every second call."""
    params, gradients = _example(4)
    tx = optax.MultiSteps(case.tx, every_k_schedule=2).gradient_transformation()
    found = _steps(tx, params, gradients)
    means = [jax.tree.map(lambda a, b: (a + b) / 2, *gradients[i : i + 2]) for i in (0, 2)]
    expect_close(found[1::2], _steps(case.tx, params, means), "Under optax.MultiSteps")
    zeros = jax.tree.map(jnp.zeros_like, found[::2])
    expect_close(found[::2], zeros, "Between the steps of optax.MultiSteps", atol=0.0)


def check_inject_hyperparams(case: Case) -> None:
    """Injected hyperparameters change nothing, and a new learning rate acts at once."""
    params, (gradient, _) = _example()
    tx = optax.inject_hyperparams(case.factory)(**case.arguments)
    update, state = jax.jit(tx.update), tx.init(params)
    for scale in (1.0, 0.25):
        rate = scale * case.arguments["learning_rate"]
        state.hyperparams["learning_rate"] = jnp.asarray(rate, dtype=jnp.float32)
        want = _steps(case.make(learning_rate=rate), params, [gradient], eager=True)
        found = [update(gradient, state, params)[0]]
        expect_close(found, want, f"Under optax.inject_hyperparams at {scale} times the rate")


def check_apply_if_finite(case: Case) -> None:
    """Under apply_if_finite a NaN gradient changes neither params nor the optimizer's state."""
    params, gradients = _example()
    bad = jax.tree.map(lambda g: g.at[..., 0].set(jnp.nan), gradients[0])
    tx = optax.apply_if_finite(case.tx, max_consecutive_errors=3)
    found = _steps(tx, params, [gradients[0], bad, gradients[1]])
    expect_close(found[::2], _steps(case.tx, params, gradients), "Under optax.apply_if_finite")
    zeros = jax.tree.map(jnp.zeros_like, params)
    expect_close(found[1], zeros, "At a NaN gradient under optax.apply_if_finite", atol=0.0)


def check_lookahead(case: Case) -> None:
    """Lookahead pulls the fast params half way back to the slow ones at every second step."""
    start, gradients = _example()
    params = optax.LookaheadParams.init_synced(start)
    tx = optax.lookahead(case.tx, sync_period=2, slow_step_size=0.5)
    update, state = jax.jit(tx.update), tx.init(params)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    half = optax.tree.scale(0.5, optax.tree.add(*_steps(case.tx, start, gradients)))
    for name, found in params._asdict().items():
        expect_close(optax.tree.sub(found, start), half, f"The {name} params of optax.lookahead")


def check_map_params(case: Case) -> None:
    """``optax.tree.map_params``, which inits with a stand-in for the params, knows the state."""
    state = jax.eval_shape(case.tx.init, small_tree())
    try:
        found = optax.tree.map_params(case.tx, lambda leaf: leaf, state)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"optax.tree.map_params does not know the state: {error}") from error
    expect(found == state, "optax.tree.map_params changes the state's structure.")


def check_conditionally_transform(case: Case) -> None:
    """Under conditionally_transform it acts while the condition holds; then gradients pass."""
    params, gradients = _example(3)
    tx = optax.conditionally_transform(case.tx, lambda step: step < 2)
    found = _steps(tx, params, gradients)
    want = _steps(case.tx, params, gradients[:2])
    expect_close(found[:2], want, "Under optax.conditionally_transform")
    expect_identical(found[2], gradients[2], "Where the condition of conditionally_transform fails")


def check_flatten(case: Case) -> None:
    """Under flatten the optimizer sees one long vector."""
    params, gradients = _example()
    found = _steps(optax.flatten(case.tx), params, gradients)
    expect_finite(found, "Under optax.flatten")

    def ravel(values):
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(values)])

    want = _steps(case.tx, ravel(params), [ravel(g) for g in gradients])
    expect_close([ravel(u) for u in found], want, "Under optax.flatten")
