"""Hyper-cleaning: its objectives, its corruption, its scores."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optlab.problems import cleaning_scores, corrupt_labels, hyper_cleaning


def linear(params, inputs):
    return inputs @ params


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)
    return inputs, jnp.array([0, 1, 2, 0, 1, 2]), jnp.array([4, 0, 7, 1, 2, 9])


def test_objectives_are_the_formulas(batch):
    inputs, labels, index = batch
    problem = hyper_cleaning(linear, penalty=0.3)
    x, y = jnp.linspace(-2.0, 2.0, 10), jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)))
    logits = np.asarray(inputs) @ np.asarray(y)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), np.asarray(labels)]
    weights = 1.0 / (1.0 + np.exp(-np.asarray(x)[np.asarray(index)]))
    inner = np.mean(weights * losses) + 0.15 * np.sum(np.asarray(y) ** 2)
    np.testing.assert_allclose(problem.inner(x, y, batch), inner, rtol=1e-5)
    np.testing.assert_allclose(problem.outer(x, y, (inputs, labels)), losses.mean(), rtol=1e-5)


def test_only_weights_of_the_batch_have_a_derivative(batch):
    problem = hyper_cleaning(linear)
    x, y = jnp.zeros(10), jnp.ones((3, 4))
    cross = jax.jacrev(jax.grad(problem.inner, argnums=1))(x, y, batch)
    touched = jnp.abs(cross).sum(axis=(0, 1)) > 0
    assert np.flatnonzero(touched).tolist() == [0, 1, 2, 4, 7, 9]


def test_corruption_is_exact_uniform_and_a_function_of_the_key():
    labels = jnp.asarray(np.random.default_rng(0).integers(0, 5, 4000), jnp.int32)
    corrupt = jax.jit(corrupt_labels, static_argnums=(2, 3))
    wrong, clean = corrupt(jax.random.key(0), labels, 0.4, 5)
    assert int(clean.sum()) == 2400
    np.testing.assert_array_equal(wrong == labels, clean)
    assert wrong.dtype == labels.dtype
    shifts = (wrong - labels)[~clean] % 5
    counts = np.bincount(shifts, minlength=5)
    assert counts[0] == 0
    assert np.all(np.abs(counts[1:] - 400) < 80)  # four deviations
    again, _ = corrupt(jax.random.key(0), labels, 0.4, 5)
    other, _ = corrupt(jax.random.key(1), labels, 0.4, 5)
    np.testing.assert_array_equal(wrong, again)
    assert (wrong != other).any()


def test_scores():
    clean = jnp.array([True] * 6 + [False] * 4)
    x = jnp.array([1.0, 1, 1, -1, -1, 0, 1, -1, -1, -1])  # zero, a weight of one half, is not found
    precision, recall, f1 = cleaning_scores(x, clean)
    assert (float(precision), float(recall)) == (0.75, 0.5)
    assert float(f1) == pytest.approx(2 * 0.75 * 0.5 / 1.25)
    nothing = cleaning_scores(-jnp.ones(10), clean)
    assert np.isnan(nothing.precision)
    assert (float(nothing.recall), float(nothing.f1)) == (0.0, 0.0)


def test_the_hypergradient_lowers_wrong_weights():
    """At the inner solution, each wrong label pulls its weight down on the average."""
    from optlab.hypergrad import cg
    from optlab.implicit import minimize

    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(80, 4)).astype(np.float32)
    labels = jnp.asarray((inputs[:, 0] > 0).astype(np.int32))
    inputs = jnp.asarray(inputs)
    wrong, clean = corrupt_labels(jax.random.key(0), labels[:40], 0.4, 2)
    problem = hyper_cleaning(linear, penalty=1e-2)
    inner_batch, outer_batch = (inputs[:40], wrong, jnp.arange(40)), (inputs[40:], labels[40:])
    x = jnp.zeros(40)
    y = minimize(optax.lbfgs())(lambda y: problem.inner(x, y, inner_batch), jnp.zeros((4, 2)))
    h, info = cg().estimate(*problem, x, y, outer_batch, inner_batch)
    assert not info.failed
    assert h[clean].mean() < 0 < h[~clean].mean()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: hyper_cleaning(linear, penalty=-1.0), "penalty"),
        (lambda: corrupt_labels(jax.random.key(0), jnp.zeros(3, int), 1.5, 3), "fraction"),
        (lambda: corrupt_labels(jax.random.key(0), jnp.zeros(3, int), 0.5, 1), "classes"),
    ],
)
def test_mistakes_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()
