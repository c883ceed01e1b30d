"""The self-tuning network: what its objectives are made of, and where its noise comes from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optlab.training import ConfigError, DataConfig, bilevel


def _task(**arguments):
    config = bilevel.BilevelConfig(
        outer_batch_size=6,
        inner_batch_size=5,
        inner_batches_per_step=2,
        data=DataConfig(name=arguments.pop("data", "digits")),
        problem=bilevel.PartConfig(
            name="self_tuning",
            arguments={"train": 60, "validation": 40, "shrink": 1, "widths": (3,), **arguments},
        ),
    )
    return bilevel.make_task(config)


@pytest.fixture(scope="module")
def made():
    task = _task(dropout=1e-4)
    x, y = task.init(jax.random.key(0))
    return task, x, y, jax.jit(task.draw)(jax.random.key(1), task.outer_data, task.inner_data)


def test_the_inner_objective_is_the_outer_one_with_dropout_and_decay(made):
    task, x, y, (_, inner_batch) = made
    batch = jax.tree.map(lambda a: a[0], inner_batch)
    outer, inner = map(jax.jit, task.problem)
    base = outer(x, y, batch[:2])
    kernels = [y["convs"][0]["kernel"], y["hidden"]["kernel"], y["head"]["kernel"]]
    for decay in (1e-4, 0.1):
        moved = {**x, "log_decay": jnp.log(jnp.array(decay))}
        still = {**y, **_silent(y)}  # then the layers do not answer the decay
        penalty = 0.5 * decay * sum(jnp.sum(k**2) for k in kernels)
        np.testing.assert_allclose(inner(moved, still, batch), base + penalty, rtol=2e-2)
    dropped = {**x, "logits": jnp.full(3, 1.0)}
    assert abs(float(inner(dropped, {**y, **_silent(y)}, batch) - base)) > 1e-2
    np.testing.assert_allclose(outer(dropped, {**y, **_silent(y)}, batch[:2]), base, rtol=1e-6)
    assert abs(float(outer(dropped, y, batch[:2]) - base)) > 1e-5  # they answer


def _silent(y):
    return jax.tree_util.tree_map_with_path(
        lambda path, a: jnp.zeros_like(a) if "gains" in jax.tree_util.keystr(path) else a, y
    )


def test_plain_layers_are_those_at_the_start(made):
    task, x, y, (outer_batch, _) = made
    plain = _task(dropout=1e-4, answers=False)
    moved = jax.tree.map(lambda a: a + 1.0, x)
    same = [jax.jit(task.problem.outer)(x, y, outer_batch)]
    same += [jax.jit(plain.problem.outer)(v, y, outer_batch) for v in (x, moved)]
    np.testing.assert_allclose(same, same[0], rtol=1e-6)


def test_batches_are_rows_of_their_part_with_keys_of_their_own(made):
    task, _, _, (outer_batch, (inputs, labels, noise)) = made
    assert (outer_batch[0].shape[0], inputs.shape[:2], labels.shape) == (6, (2, 5), (2, 5))
    assert len(np.unique(np.asarray(noise).reshape(10, -1), axis=0)) == 10
    rows = {image.tobytes(): label for image, label in zip(*task.inner_data, strict=True)}
    for image, label in zip(np.asarray(inputs).reshape(10, 8, 8, 1), labels.ravel(), strict=True):
        assert rows[image.tobytes()] == int(label)


def test_what_leaves_no_image_is_named():
    with pytest.raises(ConfigError, match=r"shrink must lie in \[1, 8\], got 9"):
        _task(shrink=9)


@pytest.mark.parametrize(("argument", "bound"), [("dropout", "1"), ("decay", "inf")])
def test_hyperparameters_start_where_their_logarithms_are_finite(argument, bound):
    with pytest.raises(ConfigError, match=rf"{argument} must lie in \(0, {bound}\), got 0.0"):
        _task(**{argument: 0.0})
