"""Few-shot tasks: what is drawn, and that it is a function of the key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optlab.training.data import Examples, draw_episodes, examples_by_class

# Each input is 100 times its class, plus its number among the drawings of the class.
INPUTS = jnp.asarray(100 * np.arange(12)[:, None] + np.arange(7))
draw = jax.jit(
    lambda key: draw_episodes(key, INPUTS, tasks=50, ways=5, shots=2, queries=3),
)


def test_tasks_are_what_they_should_be():
    support, query = jax.tree.map(np.asarray, draw(jax.random.key(0)))
    assert support.inputs.shape == (50, 10)
    assert query.inputs.shape == (50, 15)
    np.testing.assert_array_equal(support.targets, np.tile(np.repeat(np.arange(5), 2), (50, 1)))
    np.testing.assert_array_equal(query.targets, np.tile(np.repeat(np.arange(5), 3), (50, 1)))
    for task in range(50):
        classes = support.inputs[task].reshape(5, 2) // 100
        assert (classes == classes[:, :1]).all()
        assert len(set(classes[:, 0])) == 5  # no class twice
        np.testing.assert_array_equal(query.inputs[task].reshape(5, 3) // 100, classes[:, [0] * 3])
        assert not set(support.inputs[task]) & set(query.inputs[task])  # no example twice
    firsts = np.bincount(support.inputs[:, 0] // 100, minlength=12)
    assert (firsts > 0).sum() > 8  # a label is no class's own


def test_it_is_a_function_of_the_key():
    one, again, other = (draw(jax.random.key(k))[0].inputs for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_grouping_and_turning():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (10, 4, 4, 1), dtype=np.uint8)
    targets = np.array([3, 8, 3, 8, 5, 5, 3, 8, 5, 3])
    groups = examples_by_class(Examples(images, targets))
    assert groups.shape == (3, 3, 4, 4, 1)
    for label, group in zip((3, 5, 8), groups, strict=True):
        np.testing.assert_array_equal(group, images[targets == label][:3])
    turned = examples_by_class(Examples(images, targets), rotate=True)
    assert turned.shape == (12, 3, 4, 4, 1)
    np.testing.assert_array_equal(turned[:3], groups)
    np.testing.assert_array_equal(turned[4, 2, :, :, 0], np.rot90(groups[1, 2, :, :, 0]))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"ways": 13}, "ways and shots [+] queries must not exceed the 12 classes of 7 examples"),
        ({"queries": 6}, "got 5 and 8"),
        ({"shots": 0}, "shots must be an integer of at least 1"),
    ],
)
def test_mistakes_are_named(sizes, message):
    wanted = {"tasks": 1, "ways": 5, "shots": 2, "queries": 3} | sizes
    with pytest.raises(ValueError, match=message):
        draw_episodes(jax.random.key(0), INPUTS, **wanted)
