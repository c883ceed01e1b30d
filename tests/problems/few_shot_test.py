"""The two few-shot problems: their formulas, and what the inner one's solution obeys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optlab.problems import few_shot, hyper_representation

BATCH = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32), jnp.arange(8) % 4


def two_layers(params, inputs):
    return jnp.tanh(inputs @ params["hidden"]) @ params["head"]


def params(seed):
    rng = np.random.default_rng(seed)
    sizes = {"hidden": (3, 5), "head": (5, 4)}
    return {k: jnp.asarray(rng.normal(size=v), jnp.float32) for k, v in sizes.items()}


def cross_entropy(logits, labels):
    logits = np.asarray(logits, np.float64)
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(8), np.asarray(labels)])


def test_few_shot_is_a_loss_at_the_sum_and_a_pull():
    x, y = params(0), params(1)
    loss = cross_entropy(two_layers(jax.tree.map(jnp.add, x, y), BATCH[0]), BATCH[1])
    squares = sum(float(jnp.sum(leaf**2)) for leaf in y.values())
    problem = few_shot(two_layers, proximity=0.7)
    np.testing.assert_allclose(problem.outer(x, y, BATCH), loss, rtol=1e-5)
    np.testing.assert_allclose(problem.inner(x, y, BATCH), loss + 0.35 * squares, rtol=1e-5)
    np.testing.assert_allclose(few_shot(two_layers).inner(x, y, BATCH), loss, rtol=1e-5)


def test_hyper_representation_is_a_split_of_the_model():
    full = params(0)

    def apply(x, y, inputs):
        return two_layers({"hidden": x, "head": y}, inputs)

    problem = hyper_representation(apply, penalty=0.2)
    loss = cross_entropy(two_layers(full, BATCH[0]), BATCH[1])
    at = full["hidden"], full["head"], BATCH
    np.testing.assert_allclose(problem.outer(*at), loss, rtol=1e-5)
    penalty = 0.1 * float(jnp.sum(full["head"] ** 2))
    np.testing.assert_allclose(problem.inner(*at), loss + penalty, rtol=1e-5)
    hessian = jax.hessian(problem.inner, argnums=1)(*at).reshape(20, 20)
    assert np.linalg.eigvalsh(hessian)[0] > 0.2 - 1e-4  # strongly convex by the penalty


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="proximity"):
        few_shot(two_layers, proximity=-0.1)
    with pytest.raises(ValueError, match="penalty"):
        hyper_representation(two_layers, penalty=0.0)
