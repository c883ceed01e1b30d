"""Unrolled optimizers: every mode gives the derivative of the loop, and no NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab import hypergrad

STEPS = 7


def inner(x, y, batch):
    return 0.5 * jnp.sum(jnp.exp(x) * (y - batch) ** 2) + 0.1 * jnp.sum(y**4)


def outer(x, y, batch):
    return jnp.sum((y - batch) ** 2) + 0.1 * jnp.sum(x**2)


X, Y = jnp.array([0.1, -0.2, 0.3]), jnp.array([1.0, -1.0, 0.5])
OUTER, INNER = jnp.array([0.2, 0.1, -0.4]), jnp.array([0.5, 0.8, -0.3])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(estimator, inner, x, y, inner_batch, state):
    return estimator.estimate(outer, inner, x, y, OUTER, inner_batch, state=state)


def run(estimator, x=X, y=Y, inner_batch=INNER, inner=inner, state=None):
    return _run(estimator, inner, x, y, inner_batch, state)


def by_hand(tx, x, y, batches, frozen=0):
    """The loop written out, its first steps with a frozen x, differentiated by jax."""

    def value(x):
        z, state = y, tx.init(y)
        for t, batch in enumerate(batches):
            if t == frozen:
                z, state = jax.lax.stop_gradient((z, state))
            g = jax.grad(inner, 1)(x, z, batch)
            updates, state = tx.update(g, state, z)
            z = optax.apply_updates(z, updates)
        return outer(x, z, OUTER)

    return jax.jit(jax.grad(value))(x)


ADAM = optax.adam(0.1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"checkpoint": "sqrt"},
        {"checkpoint": 2},
        {"checkpoint": 20},
        {"mode": "forward"},
        {"guard": False},
    ],
    ids=str,
)
def test_all_ways_give_the_derivative_of_the_loop(options):
    h, info = run(hypergrad.unrolled(ADAM, STEPS, **options))
    np.testing.assert_allclose(h, by_hand(ADAM, X, Y, [INNER] * STEPS), rtol=1e-5)
    assert info.failed  # seven steps are no solution


@pytest.mark.parametrize("options", [{}, {"checkpoint": 2}, {"mode": "forward"}], ids=str)
def test_truncation_keeps_the_last_steps(options):
    h, _ = run(hypergrad.unrolled(ADAM, STEPS, truncate=3, **options))
    expected = by_hand(ADAM, X, Y, [INNER] * STEPS, frozen=STEPS - 3)
    np.testing.assert_allclose(h, expected, rtol=1e-5)


def test_each_step_may_have_its_batch():
    batches = INNER[None] + 0.1 * jnp.arange(STEPS)[:, None]
    estimator = hypergrad.unrolled(ADAM, STEPS, fresh_batches=True, checkpoint="sqrt")
    h, _ = run(estimator, inner_batch=batches)
    np.testing.assert_allclose(h, by_hand(ADAM, X, Y, batches), rtol=1e-5)
    with pytest.raises(ValueError, match=f"leading axis of {STEPS} batches"):
        run(estimator, inner_batch=batches[:3])


def test_windows_go_on_with_the_optimizers_state():
    """Two windows end where one loop does."""
    whole = run(hypergrad.unrolled(ADAM, 6))[1].y
    window = hypergrad.unrolled(ADAM, 3)
    _, info = run(window)
    _, info = run(window, y=info.y, state=info.state)
    np.testing.assert_allclose(info.y, whole, rtol=1e-6)


def test_a_learning_rate_can_be_learnt():
    def value(x):
        estimator = hypergrad.unrolled(lambda x: optax.sgd(jnp.exp(x[0])), 5)
        return estimator.estimate(outer, inner, x, Y, OUTER, INNER)

    x = X.at[0].set(-2.0)
    h, _ = jax.jit(value)(x)
    end = lambda x: outer(x, jax.jit(value)(x)[1].y, OUTER)  # noqa: E731
    difference = (end(x.at[0].add(1e-2)) - end(x.at[0].add(-1e-2))) / 2e-2
    np.testing.assert_allclose(h[0], difference, rtol=1e-2)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_a_parameter_without_gradient_does_not_make_nan(mode):
    """Adam's square root at a second moment of zero: with the guard, or with eps_root."""

    def dead(x, y, batch):
        return inner(x[:2], y[:2], batch[:2]) + 0 * jnp.exp(x[2]) * y[2]

    estimator = hypergrad.unrolled(optax.adam(0.1), STEPS, mode=mode)
    h, _ = run(estimator, inner=dead)
    assert jnp.isfinite(h).all()
    unguarded = hypergrad.unrolled(optax.adam(0.1), STEPS, mode=mode, guard=False)
    assert jnp.isnan(run(unguarded, inner=dead)[0]).any()
    smooth = hypergrad.unrolled(optax.adam(0.1, eps_root=1e-12), STEPS, mode=mode, guard=False)
    np.testing.assert_allclose(h, run(smooth, inner=dead)[0], rtol=1e-4)


def test_the_guard_hides_no_divergence():
    h, info = run(hypergrad.unrolled(optax.sgd(1e3), 60))
    assert not jnp.isfinite(h).any()
    assert info.failed


def test_the_guard_keeps_derivatives_at_a_gradient_of_zero():
    """A gradient of zero can have a derivative: at a solution it always does."""
    tilted = lambda x, y, b: 0.5 * jnp.sum((y - x) ** 2)  # noqa: E731
    for mode in ("reverse", "forward"):
        h, info = run(hypergrad.unrolled(optax.sgd(0.5), 20, mode=mode), y=X, inner=tilted)
        np.testing.assert_allclose(h, 2 * (X - OUTER) + 0.2 * X, rtol=1e-4)
        assert not info.failed


@pytest.mark.parametrize(
    ("optimizer", "mode"),
    [
        pytest.param(optax.lbfgs(), "forward", marks=pytest.mark.slow),
        (optax.lbfgs(0.3, linesearch=None), "reverse"),
    ],
    ids=["line search", "fixed step"],
)
def test_lbfgs_gives_no_nan(optimizer, mode):
    """Steps that change nothing any more divide by nothing.

    What they then do is rounding, and so is their derivative: it may be wrong, but not in silence.
    """
    h, info = run(hypergrad.unrolled(optimizer, 40, mode=mode))
    assert jnp.isfinite(h).all()
    exact, _ = run(hypergrad.exact(), y=info.y)
    if not info.failed:
        np.testing.assert_allclose(h, exact, rtol=2e-2)
    few, info = run(hypergrad.unrolled(optimizer, 8, mode=mode))
    assert info.failed or np.allclose(few, run(hypergrad.exact(), y=info.y)[0], rtol=2e-2)


def test_a_line_search_needs_forward_mode():
    with pytest.raises(ValueError, match="Reverse-mode differentiation"):
        run(hypergrad.unrolled(optax.lbfgs(), 3))


def temporaries(steps, size=1000, **options):
    y = jnp.ones(size)
    estimator = hypergrad.unrolled(optax.sgd(0.1), steps, tolerance=None, **options)
    quartic = lambda x, y, b: jnp.sum(x * y**2 + y**4)  # noqa: E731
    norm = lambda x, y, b: jnp.sum(y**2)  # noqa: E731
    run = jax.jit(lambda x, y: estimator.estimate(norm, quartic, x, y, None, None)[0])
    return run.lower(y, y).compile().memory_analysis().temp_size_in_bytes


def test_checkpoints_take_the_root_of_the_memory():
    plain = temporaries(1024) / temporaries(64)
    saved = temporaries(1024, checkpoint="sqrt") / temporaries(64, checkpoint="sqrt")
    assert plain > 12  # 16 times the steps
    assert saved < 5  # four times their root
    assert temporaries(1024, checkpoint="sqrt") < 0.1 * temporaries(1024)
