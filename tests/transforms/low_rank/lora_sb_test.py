"""LoRA-SB against the authors' factors, the projection that it is, and its claims."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from optlab.transforms.low_rank import LoraBases, lora_sb, lora_sb_merge
from tests import golden
from tests.multi_device import mesh


def test_equals_the_released_first_step():
    # CERT-Lab/lora-sb @4feb81c, utils/svd_utils.py; its factors are rounded to bfloat16.
    file = golden.load("opt_lora_sb")
    hyper = file["hyper"]
    bases, latents = lora_sb(
        jnp.asarray(file["grad"]),
        hyper["rank"],
        hyper["lr"],
        hyper["total_steps"],
        warmup_ratio=hyper["warmup_ratio"],
    )
    found = lora_sb_merge(jnp.zeros((24, 16)), bases, latents)
    scale = np.linalg.norm(file["BRA_exact"])
    # The released decomposition is randomised: its own distance is 2.4e-3, and 2e-2 once rounded.
    assert np.linalg.norm(found - file["BRA_exact"]) < 3e-3 * scale
    assert np.linalg.norm(found - file["BRA_bf16"]) < 2.5e-2 * scale
    np.testing.assert_allclose(np.diagonal(latents[""]), file["sing"][:4], rtol=1e-5)
    full, every = lora_sb(jnp.asarray(file["grad"]), 16, hyper["lr"], 1000)
    np.testing.assert_allclose(
        lora_sb_merge(jnp.zeros((24, 16)), full, every), file["dW"], rtol=0, atol=1e-10
    )


def test_a_step_of_the_latents_is_the_projected_step_of_the_matrix():
    keys = jax.random.split(jax.random.key(0), 4)
    params = {"kernel": jax.random.normal(keys[0], (6, 5)), "bias": jnp.zeros(5)}
    x, y = jax.random.normal(keys[1], (8, 6)), jax.random.normal(keys[2], (8, 5))
    loss = lambda p: jnp.mean((jnp.tanh(x @ p["kernel"] + p["bias"][None]) - y) ** 2)  # noqa: E731
    bases, latents = lora_sb(jax.grad(loss)(params), 2, 0.1, 50)
    left, right = bases["kernel"]
    np.testing.assert_allclose(left.T @ left, np.eye(2), atol=1e-6)
    np.testing.assert_allclose(right @ right.T, np.eye(2), atol=1e-6)
    merged = lora_sb_merge(params, bases, latents)
    by_latent = jax.grad(lambda r: loss(lora_sb_merge(params, bases, r)))(latents)["kernel"]
    by_kernel = jax.grad(loss)(merged)["kernel"]
    projected = left @ left.T @ by_kernel @ right.T @ right
    np.testing.assert_allclose(left @ by_latent @ right, projected, atol=1e-6)
    np.testing.assert_array_equal(merged["bias"], params["bias"])


def test_captures_the_energy_of_the_first_step():
    """The claim: r directions hold most of the update; a random basis of r hardly any of it."""
    file = golden.load("opt_lora_sb")
    rng = np.random.default_rng(0)
    step = file["dW"].astype(np.float64)
    captured, at_random = [], []
    for rank in (1, 2, 4, 8):
        bases, latents = lora_sb(jnp.asarray(file["grad"]), rank, 1e-4, 1000)
        part = lora_sb_merge(jnp.zeros((24, 16)), bases, latents)
        captured.append(np.linalg.norm(part) ** 2 / np.linalg.norm(step) ** 2)
        q, p = (np.linalg.qr(rng.normal(size=(n, rank)))[0] for n in (24, 16))
        at_random.append(np.linalg.norm(q.T @ step @ p) ** 2 / np.linalg.norm(step) ** 2)
    np.testing.assert_allclose(captured, [0.46, 0.66, 0.86, 0.97], rtol=0, atol=0.01)
    assert (np.array(at_random) < [0.05, 0.1, 0.15, 0.3]).all()


def test_fine_tunes_a_flax_model_better_than_bases_of_its_weights():
    """The claim, beside LoRA-XS: the same adapters in the bases of the weights, from zero."""
    model = nnx.Linear(24, 16, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model)
    keys = jax.random.split(jax.random.key(1), 3)
    x = jax.random.normal(keys[0], (256, 24))
    shift = jax.random.normal(keys[1], (24, 3)) @ jax.random.normal(keys[2], (3, 16))
    targets = model(x) + 0.1 * x @ shift

    def loss(params):
        return jnp.mean((nnx.merge(graph, params)(x) - targets) ** 2)

    def tuned(bases, latents):
        tx = optax.adam(0.01)

        def step(carry, _):
            latents, state = carry
            value, g = jax.value_and_grad(lambda r: loss(lora_sb_merge(params, bases, r)))(latents)
            updates, state = tx.update(g, state, latents)
            return (optax.apply_updates(latents, updates), state), value

        run = jax.jit(lambda c: jax.lax.scan(step, c, length=150)[1][-1])
        return float(run((latents, tx.init(latents))))

    bases, latents = lora_sb(jax.grad(loss)(params), 4, 0.01, 150)
    assert list(latents) == ["kernel"]
    u, _, vt = jnp.linalg.svd(params["kernel"][...], full_matrices=False)
    weights = {"kernel": LoraBases(u[:, :4], vt[:4])}
    ours = tuned(bases, latents)
    theirs = tuned(weights, jax.tree.map(jnp.zeros_like, latents))
    assert ours < 0.5 * theirs


def test_layers_are_chosen_by_their_path():
    gradients = {
        "a": {"kernel": jnp.ones((4, 3), jnp.bfloat16), "bias": jnp.ones(3)},
        "b": {"kernel": jnp.ones((3, 2))},
        "conv": {"kernel": jnp.ones((3, 3, 1, 2))},
    }
    bases, latents = lora_sb(gradients, 2, 0.1, 50)
    assert set(latents) == set(bases) == {"a/kernel", "b/kernel"}
    for numbers, size in ((latents, 2 * 2), (bases, 2 * (4 + 3))):
        assert sum(x.size for x in jax.tree.leaves(numbers["a/kernel"])) == size
    assert (bases["a/kernel"].left.dtype, latents["a/kernel"].dtype) == (jnp.bfloat16, jnp.float32)
    merged = lora_sb_merge(gradients, bases, latents)
    assert merged["a"]["kernel"].dtype == jnp.bfloat16
    assert set(lora_sb(gradients, 2, 0.1, 50, layers="^b/")[1]) == {"b/kernel"}


def test_sharded_leaves_stay_where_they_are():
    with jax.set_mesh(mesh(jax.sharding.AxisType.Explicit)):
        w = jax.device_put(jax.random.normal(jax.random.key(0), (4, 6)), jax.P("x", None))
        bases, latents = lora_sb(w, 2, 0.1, 10)
        merged = lora_sb_merge(w, bases, latents)
    assert merged.sharding == w.sharding


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rank": 0}, "rank must be"),
        ({"rank": 5}, "rank 5 is more than 'w' of shape"),
        ({"total_steps": 0}, "total_steps must be"),
        ({"warmup_ratio": 0.0}, "warmup_ratio must lie in"),
        ({"layers": "head"}, "layers 'head' is found"),
    ],
)
def test_errors_name_the_argument(arguments, words):
    arguments = {"rank": 1, "learning_rate": 0.1, "total_steps": 10, **arguments}
    with pytest.raises(ValueError, match=words):
        lora_sb({"w": jnp.ones((4, 6))}, **arguments)


def test_latents_of_other_params_are_refused():
    bases, latents = lora_sb({"w": jnp.ones((4, 6))}, 1, 0.1, 10)
    with pytest.raises(ValueError, match="params have no leaf 'w'"):
        lora_sb_merge({"v": jnp.ones((4, 6))}, bases, latents)
