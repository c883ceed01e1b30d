"""Muon against its authors' code, in both of its precisions, layouts and shape factors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optlab
from optlab.linalg import newton_schulz
from optlab.transforms.matrix import hidden_matrix_labels, muon, scale_by_muon
from tests import golden


@pytest.fixture(scope="module")
def file():
    return golden.load("opt_muon")


def matrices(file, **options):
    """The authors' matrices' optimizer; without labels, as all their leaves have two axes."""
    hyper = file["hyper"]
    return optax.chain(
        scale_by_muon(b1=hyper["momentum"], ns_steps=hyper["ns_steps"], **options),
        optax.add_decayed_weights(hyper["weight_decay"]),
        optax.scale_by_learning_rate(hyper["lr"]),
    )


@pytest.mark.parametrize(
    ("ns_dtype", "label", "atol"), [(None, "f32ns", 2e-6), ("bfloat16", "bf16ns", 5e-3)]
)
@pytest.mark.parametrize("out_axis", ["first", "last"])
def test_replays_the_authors(file, ns_dtype, label, atol, out_axis):
    # Recorded: a torch matrix (out, in), and a kernel as (height, width, in, out).
    axes = {"W": (1, 0), "conv": (0, 1, 2, 3)}
    if out_axis == "first":
        axes = {"W": (0, 1), "conv": (3, 2, 0, 1)}

    def placed(kind, suffix=""):
        steps = [()] if kind == "init" else [(0,)]
        return {
            n: np.transpose(
                file[f"{kind}_{n}{suffix}"], (*steps[0], *(a + len(steps[0]) for a in order))
            )
            for n, order in axes.items()
        }

    tx = matrices(file, ns_dtype=ns_dtype, out_axis=out_axis, as_released=True)
    path = golden.replay(tx, placed("init"), placed("grad"))
    for name, expected in placed("params", f"_{label}").items():
        np.testing.assert_allclose(path[name], expected, rtol=0, atol=atol)


def test_replays_the_auxiliary_adam(file):
    aux = file["hyper"]["aux"]
    tx = muon(
        0.02,
        adam_learning_rate=aux["lr"],
        adam_b1=aux["b1"],
        adam_b2=aux["b2"],
        adam_eps=aux["eps"],
        weight_decay=aux["weight_decay"],
    )
    path = golden.replay(tx, {"b": file["init_b"]}, {"b": file["grad_b"]})
    np.testing.assert_allclose(path["b"], file["params_b_auxadam"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "steps"), [("ns_f32_1", 1), ("ns_f32_5", 5)])
def test_the_iteration_is_theirs(file, name, steps):
    x = jnp.asarray(file["ns_in"])
    np.testing.assert_allclose(newton_schulz(x, steps=steps), file[name], rtol=0, atol=2e-6)
    traced = jax.jit(lambda x, steps: newton_schulz(x, steps=steps))(x, steps)
    np.testing.assert_allclose(traced, file[name], rtol=0, atol=2e-6)


def test_the_iteration_is_theirs_for_wide_matrices(file):
    x = jnp.asarray(file["ns_in"]).T
    np.testing.assert_allclose(newton_schulz(x), file["ns_f32_5_wide"], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("shape", "out_axis", "as_released", "factor"),
    [
        ((4, 16), "last", False, 2.0),
        ((4, 16), "last", True, 2.0),
        ((16, 4), "last", False, 1.0),
        ((16, 4), "first", False, 2.0),
        ((3, 3, 2, 72), "last", False, 2.0),
        ((3, 3, 2, 72), "last", True, 1.0),
        ((72, 2, 3, 3), "first", False, 2.0),
        ((8, 2, 2, 72), "last", True, 2.0),
        ((72, 2, 8, 2), "first", True, 2.0),
        ((3, 12, 5), "last", True, 2.0),
    ],
)
def test_shape_factor(shape, out_axis, as_released, factor):
    g = jax.random.normal(jax.random.key(0), shape)
    tx = scale_by_muon(out_axis=out_axis, as_released=as_released)
    u, _ = tx.update(g, tx.init(g))
    matrix = u.reshape(-1, shape[-1]) if out_axis == "last" else u.reshape(shape[0], -1)
    s = np.linalg.svd(matrix, compute_uv=False)
    assert 0.68 * factor < s.min() < s.max() < 1.21 * factor


def test_without_nesterov_the_second_step_follows_the_average():
    first, second = jnp.diag(jnp.array([1.0, 1.0])), jnp.diag(jnp.array([-1.5, 9.0]))
    tx = scale_by_muon(b1=0.5, nesterov=False)
    _, state = tx.update(first, tx.init(first))
    u, state = tx.update(second, state)
    np.testing.assert_allclose(state.mu, 0.25 * first + 0.5 * second)
    np.testing.assert_allclose(u, newton_schulz(state.mu), atol=1e-6)


def test_labels_of_a_transformer():
    leaf, vector = jnp.ones((4, 4)), jnp.ones(4)
    params = {
        "Embed_0": {"embedding": leaf},
        "wpe": leaf,
        "MultiHeadDotProductAttention_0": {"query": {"kernel": jnp.ones((4, 2, 2)), "bias": leaf}},
        "multi_head_attention": [leaf, vector],
        "LayerNorm_0": {"scale": vector},
        "mlp": {"kernel": leaf, "unused": None},
        "lm_head": {"kernel": leaf},
        "head_1": leaf,
    }
    labels = hidden_matrix_labels(params)
    assert labels == {
        "Embed_0": {"embedding": "other"},
        "wpe": "other",
        "MultiHeadDotProductAttention_0": {"query": {"kernel": "matrix", "bias": "other"}},
        "multi_head_attention": ["matrix", "other"],
        "LayerNorm_0": {"scale": "other"},
        "mlp": {"kernel": "matrix", "unused": None},
        "lm_head": {"kernel": "other"},
        "head_1": "other",
    }
    own = hidden_matrix_labels(params, others="mlp|multi_")
    assert own["mlp"]["kernel"] == "other"
    assert own["lm_head"]["kernel"] == "matrix"


def test_any_pair_of_methods_is_partitioned_by_the_labels():
    params = {"embedding": jnp.ones((4, 2)), "kernel": jnp.eye(2)}
    tx = optax.partition(
        {"matrix": optlab.auon(0.5), "other": optax.sgd(0.1)}, hidden_matrix_labels
    )
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["embedding"], -0.1, rtol=1e-6)
    assert float(jnp.abs(updates["kernel"][0, 1])) == 0


def test_a_mask_spans_both_groups():
    params = {"kernel": jnp.eye(2), "bias": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = muon(0.1, weight_decay=0.5, mask={"kernel": True, "bias": False}, adam_learning_rate=1.0)
    updates, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05 * np.eye(2), atol=1e-7)
    np.testing.assert_array_equal(updates["bias"], 0)


def test_state_is_one_moment_of_matrices_and_two_of_others():
    params = {"kernel": jnp.ones((3, 5)), "bias": jnp.ones(7)}
    assert sum(x.size for x in jax.tree.leaves(muon(0.1).init(params))) == 3 * 5 + 2 * 7 + 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"b1": 1.0}, "b1 must lie in"),
        ({"ns_steps": 0}, "ns_steps must lie in"),
        ({"out_axis": "rows"}, "out_axis must be"),
        ({"adam_b2": 1.0}, "adam_b2 must lie in"),
        ({"adam_eps": -1.0}, "adam_eps must lie in"),
    ],
)
def test_errors_name_the_argument(arguments, words):
    with pytest.raises(ValueError, match=words):
        muon(0.1, **arguments)


def test_a_vector_is_refused():
    tx = scale_by_muon()
    with pytest.raises(ValueError, match="updates must have two axes"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)))
