"""What every engine of the family keeps: constraints, checkpoints, meshes, any optimizer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax.checkpoint import v1 as ocp

import optlab
from optlab import bilevel, hypergrad
from tests.bilevel.quadratics import QUADRATIC, zeros
from tests.multi_device import mesh

PROBLEM = tuple(QUADRATIC.problem)
DATA = QUADRATIC.outer_data, QUADRATIC.inner_data
BLOCKS = 2
BOUND = 0.05  # below where both variables go
TWO = {"outer_optimizer": optax.adam(0.05), "inner_optimizer": optax.sgd(0.05)}
THREE = {**TWO, "linear_optimizer": optax.sgd(0.05)}


def _clip(tree):
    return jax.tree.map(lambda a: jnp.clip(a, -BOUND, BOUND), tree)


BOTH = {"project_outer": _clip, "project_inner": _clip}
OUTER = {"project_outer": _clip}


def _lv_hba():
    def constraint(x, y):
        return jnp.concatenate([x, y, -x, -y]) - BOUND

    return bilevel.lv_hba(
        *PROBLEM,
        constraint,
        **TWO,
        saddle_rate=0.05,
        center_rate=0.05,
        outer_weight=1.0,
        project=_clip,
    )


SOLVERS = {
    "alternating": lambda: bilevel.alternating(
        *PROBLEM, **TWO, **BOTH, estimator=hypergrad.neumann(3, 0.2, randomized=True)
    ),
    "amigo": lambda: bilevel.amigo(*PROBLEM, **THREE, **BOTH, inner_steps=2),
    "bo_rep": lambda: bilevel.bo_rep(
        *PROBLEM,
        learning_rate=0.05,
        inner_optimizer=optax.sgd(0.05),
        linear_optimizer=optax.sgd(0.05),
        **BOTH,
    ),
    "bome": lambda: bilevel.bome(*PROBLEM, **TWO, value_optimizer=optax.sgd(0.1), **BOTH),
    "bsvrb": lambda: bilevel.bsvrb(*PROBLEM, blocks=BLOCKS, **THREE, **OUTER),
    "lv_hba": _lv_hba,
    "penalty": lambda: bilevel.penalty(*PROBLEM, **TWO, **BOTH, sigma=0.1),
    "pzobo": lambda: bilevel.pzobo(*PROBLEM, **TWO, **BOTH, inner_steps=2, samples=2),
    "saba": lambda: bilevel.saba(*PROBLEM, outer_batches=2, inner_batches=2, **THREE, **BOTH),
    "stn": lambda: bilevel.stn(
        *PROBLEM, **TWO, **OUTER, scale_optimizer=optax.sgd(0.05), per_example=True
    ),
    "vpbgd": lambda: bilevel.vpbgd(
        *PROBLEM, **TWO, value_optimizer=optax.sgd(0.1), multiplier=1.0, **BOTH
    ),
    "vrbo": lambda: bilevel.vrbo(*PROBLEM, **TWO, **BOTH, terms=2, neumann_step=0.2, inner_steps=2),
}


@functools.cache
def _made(name):
    """The solver, its compiled step, and where it starts."""
    solver = SOLVERS[name]()
    extra = {"saba": {"outer_index": 1, "inner_index": 0}}.get(name, {})
    x, y = zeros()
    if name == "bsvrb":
        y, extra = jnp.zeros((BLOCKS, *y.shape)), {"block_ids": jnp.arange(BLOCKS)}
    step = jax.jit(functools.partial(solver.step, **extra))
    return solver, step, solver.init(jax.random.key(0), x, y)


def _data(name):
    return jax.tree.map(lambda a: jnp.stack([a] * BLOCKS), DATA) if name == "bsvrb" else DATA


def _walk(name, state, steps):
    states = []
    for _ in range(steps):
        state, _ = _made(name)[1](state, *_data(name))
        states.append(state)
    return states


@pytest.mark.parametrize("name", SOLVERS)
def test_constraints_hold_at_every_step(name):
    states = _walk(name, _made(name)[2], 8)
    kept = [("x", s.x) for s in states]
    if name not in ("bsvrb", "stn"):  # they keep x alone
        kept += [("y", s.y) for s in states]
    for variable, value in kept:
        assert float(jnp.abs(value).max()) <= BOUND * (1 + 1e-6), variable
    assert float(jnp.abs(states[-1].x).max()) == pytest.approx(BOUND)  # and they bind


@pytest.mark.parametrize("name", SOLVERS)
def test_a_run_goes_on_from_an_orbax_checkpoint_in_the_same_bits(name, tmp_path):
    solver, _, start = _made(name)
    middle = _walk(name, start, 2)[-1]
    ocp.save(tmp_path / "state", middle)
    # Another start gives the structure; what it holds must not matter.
    like = solver.init(jax.random.key(7), *jax.tree.map(jnp.ones_like, (start.x, start.y)))
    restored = ocp.load(tmp_path / "state", like)
    ends = (_walk(name, s, 2)[-1] for s in (middle, restored))
    for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_array_equal(a, b)


# The others have no operation that these lack.
SHARDED = ("alternating", "bsvrb", "lv_hba", "penalty", "pzobo", "saba", "stn", "vrbo")


@pytest.mark.parametrize("name", SHARDED)
def test_sharded_data_gives_the_result_of_one_device(name):
    # Explicit axes refuse what automatic ones guess; soba_test has both.
    devices = mesh(jax.sharding.AxisType.Explicit)
    _, step, start = _made(name)
    alone = _walk(name, start, 1)[0]
    rows = jax.P(None, "x") if name == "bsvrb" else jax.P("x")
    with jax.set_mesh(devices):
        whole = jax.sharding.NamedSharding(devices, jax.P())
        split = jax.sharding.NamedSharding(devices, rows)
        data = jax.tree.map(lambda a: jax.device_put(a, split), _data(name))
        spread, _ = step(jax.device_put(start, whole), *data)
    for a, b in zip(jax.tree.leaves(spread), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


SIZE = 64  # of a matrix whose moments adamw8bit quantises
BASIS = jax.random.normal(jax.random.key(1), (3, SIZE, SIZE))
TARGET = jnp.array([0.5, -1.0, 1.5])


def _matrix(x):
    return jnp.einsum("k,kij->ij", x, BASIS)


def _outer(x, y, batch):
    return jnp.mean((y["w"] - _matrix(TARGET)) ** 2) / 2


def _inner(x, y, batch):
    return jnp.sum((y["w"] - _matrix(x)) ** 2) / 2


@pytest.mark.parametrize("engine", ["soba", "stocbio"])
@pytest.mark.parametrize("name", ["adamw8bit", "lion", "muon"])
def test_inner_optimizers_of_every_kind_train(name, engine):
    steps = 400
    rate = {"adamw8bit": 0.1, "lion": 0.1, "muon": 1.0}[name]
    schedule = optax.cosine_decay_schedule(rate, steps)
    make = {"adamw8bit": optlab.adamw8bit, "lion": optax.lion, "muon": optlab.muon}[name]
    options = {
        "outer_optimizer": optax.adam(optax.cosine_decay_schedule(0.02, steps)),
        "inner_optimizer": make(schedule, weight_decay=0.0),
    }
    if engine == "soba":
        solver = bilevel.soba(_outer, _inner, **options, linear_optimizer=optax.sgd(0.5))
    else:
        solver = bilevel.stocbio(_outer, _inner, **options, terms=2, inner_steps=1)
    state = solver.init(jax.random.key(0), jnp.zeros(3), {"w": jnp.zeros((SIZE, SIZE))})
    if name == "adamw8bit":
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state.inner_optimizer))
        assert size < 2.2 * SIZE**2  # two moments of a byte

    def body(state, _):
        return solver.step(state, None, None)

    end, _ = jax.jit(lambda s: jax.lax.scan(body, s, length=steps))(state)
    np.testing.assert_allclose(end.x, TARGET, atol=0.01)
    np.testing.assert_allclose(end.y["w"], _matrix(end.x), atol=0.01)


EMPTY = {
    "project_outer": lambda x: jnp.full_like(x, jnp.nan),
    "project_inner": lambda y: y / 0.0,
}


@pytest.mark.parametrize("name", ["alternating", "amigo", "penalty", "saba", "vrbo", "pzobo"])
@pytest.mark.parametrize("argument", EMPTY)
def test_projections_on_empty_sets_are_named(name, argument):
    levels = THREE if name in ("amigo", "saba") else TWO
    more = {
        "alternating": {"estimator": hypergrad.cg()},
        "penalty": {"sigma": 0.1},
        "saba": {"outer_batches": 2, "inner_batches": 2},
    }.get(name, {})
    make = functools.partial(getattr(bilevel, name), *PROBLEM, **levels, **more)
    with pytest.raises(ValueError, match=f"{argument} gives numbers that are not finite"):
        make(**{argument: EMPTY[argument]}).init(jax.random.key(0), *zeros())
    with pytest.raises(TypeError, match=f"what {argument} gives must have the structure"):
        make(**{argument: lambda v: (v, v)}).init(jax.random.key(0), *zeros())


@pytest.mark.parametrize("name", ["stocbio", "ttsa", "mrbo", "sustain", "vrbo"])
def test_the_step_of_a_series_is_named_as_the_caller_has_it(name):
    weight = {"weight": 0.5} if name in ("mrbo", "sustain") else {}
    with pytest.raises(ValueError, match=r"neumann_step must lie in \(0, inf\), got -1"):
        getattr(bilevel, name)(*PROBLEM, **TWO, **weight, neumann_step=-1.0)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("alternating", {"estimator": hypergrad.cg(), "inner_steps": 3}, 3),
        ("amigo", {"inner_steps": 2, "linear_steps": 3}, 6),
        ("penalty", {"sigma": 0.1, "inner_steps": 4}, 4),
    ],
)
def test_batches_that_are_not_one_a_step_are_named(name, options, count):
    levels = THREE if name == "amigo" else TWO
    solver = getattr(bilevel, name)(*PROBLEM, **levels, **options, fresh_batches=True)
    state = solver.init(jax.random.key(0), *zeros())
    two = jax.tree.map(lambda a: a.reshape(2, -1, *a.shape[1:]), DATA)
    with pytest.raises(ValueError, match=f"_batch must have a leading axis of {count}, one a"):
        solver.step(state, *(two if name == "penalty" else (DATA[0], two[1])))


UNEVEN = (QUADRATIC.inner_data[0][:5], *QUADRATIC.inner_data[1:])


@pytest.mark.parametrize("name", [n for n in SOLVERS if n != "bsvrb"])
def test_bad_batches_and_losses_are_named(name):
    solver, _, state = _made(name)
    extra = {"outer_index": 1, "inner_index": 0} if name == "saba" else {}
    with pytest.raises(ValueError, match="inner_batch must have leaves of one leading size"):
        solver.step(state, DATA[0], UNEVEN, **extra)


@pytest.mark.parametrize("name", ["alternating", "lv_hba", "saba"])
def test_variables_that_are_no_floats_and_missing_batches_are_named(name):
    solver, _, state = _made(name)
    x, y = zeros()
    with pytest.raises(TypeError, match="x must hold floating-point arrays, but x has dtype int32"):
        solver.init(jax.random.key(0), x.astype(int), y)
    with pytest.raises(TypeError, match="y must hold floating-point arrays, but y has dtype int32"):
        solver.init(jax.random.key(0), x, y.astype(int))
    extra = {"outer_index": 1, "inner_index": 0} if name == "saba" else {}
    with pytest.raises(ValueError, match="inner fails without inner_batch: "):
        solver.step(state, DATA[0], None, **extra)


@pytest.mark.parametrize("name", ["alternating", "pzobo", "stn"])
def test_a_donated_state_does_not_take_the_callers_key(name):
    key = jax.random.key(0)
    state = _made(name)[0].init(key, *zeros())
    jax.block_until_ready(jax.jit(lambda k: k + 1, donate_argnums=0)(state.key))
    assert not key.is_deleted()
    assert jax.random.bits(key) is not None
