"""The network of few-shot learning against a convolution and a normalisation written out."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from optlab.training.models import FewShotCNN, functional

SHAPE, TASKS = (6, 5, 2), 3  # sizes that halve to whole and to broken numbers
MODEL = functional(lambda key: FewShotCNN(SHAPE, (4, 3), 5, rngs=nnx.Rngs(key)))


def _written_out(params, images):
    x = np.asarray(images, np.float64)
    for block in (params["blocks"][0], params["blocks"][1]):
        kernel, scale, bias = (
            np.asarray(block[k], np.float64) for k in ("kernel", "scale", "bias")
        )
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        height, width = ((n + 1) // 2 for n in x.shape[1:3])
        y = np.zeros((len(x), height, width, kernel.shape[-1]))
        for row in range(height):
            for column in range(width):
                square = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
                y[:, row, column] = np.einsum("bijc,ijcm->bm", square, kernel)
        normal = (y - y.mean((0, 1, 2))) / np.sqrt(y.var((0, 1, 2)) + 1e-3)
        x = np.maximum(normal * scale + bias, 0.0)
    head = params["head"]
    return x.reshape(len(x), -1) @ head["kernel"] + head["bias"]


def _tree(shapes, rng, *leading):
    return jax.tree.map(
        lambda leaf: rng.normal(size=(*leading, *leaf.shape)).astype(np.float32), shapes
    )


def test_it_is_the_formula_for_kernels_that_differ_from_task_to_task():
    shapes, rest = jax.eval_shape(MODEL.init, jax.random.key(0))
    assert not jax.tree.leaves(rest)  # nothing is kept
    rng = np.random.default_rng(0)
    params = _tree(shapes, rng, TASKS)
    images = rng.normal(size=(TASKS, 7, *SHAPE)).astype(np.float32)
    logits = jax.jit(jax.vmap(lambda p, i: MODEL.apply(p, rest, i)[0]))(params, images)
    assert logits.shape == (TASKS, 7, 5)
    for task in range(TASKS):
        own = jax.tree.map(lambda p, task=task: p[task], params)
        np.testing.assert_allclose(logits[task], _written_out(own, images[task]), atol=5e-5)


def test_a_product_of_patches_has_no_convolution():
    params, rest = jax.eval_shape(MODEL.init, jax.random.key(0))
    images = jnp.zeros((7, *SHAPE))
    program = str(jax.make_jaxpr(jax.grad(lambda p: MODEL.apply(p, rest, images)[0].sum()))(params))
    assert "dot_general" in program
    assert "conv_general" not in program
