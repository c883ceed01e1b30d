"""GPT against numpy, its mask and its tie."""

import functools

import jax
import numpy as np
import pytest

from optlab.training.models import GPT
from tests.training.models import reference
from tests.training.models.case import CLASSES, TOKENS, case, in_float64, start


@pytest.fixture(scope="module")
def tied():
    make = functools.partial(GPT, TOKENS, CLASSES, width=12, depth=1, heads=3, tied=True)
    return start(make)


def _check(c, heads):
    params = in_float64(c.params)
    expected = np.stack([reference.gpt(params, row, heads) for row in c.inputs])
    logits, _ = c.apply(c.params, c.rest, c.inputs)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert expected.std() > 1e-3


def test_is_the_reference():
    _check(case("gpt"), heads=2)


def test_tied_is_the_reference(tied):
    assert "head" not in tied.params
    _check(tied, heads=3)


def test_a_stable_embedding_is_a_normalised_one():
    make = functools.partial(
        GPT, TOKENS, CLASSES, width=12, depth=1, heads=3, tied=True, stable_embedding=True
    )
    c = start(make)
    params = in_float64(c.params)
    stable = params.pop("stable_embedding")
    table = stable["embedding"]
    centred = table - table.mean(-1, keepdims=True)
    normalised = centred / np.sqrt(table.var(-1, keepdims=True) + 1e-5)
    head = {"kernel": table.T}  # the tie is to the table itself
    expected = np.stack(
        [
            reference.gpt({**params, "embedding": normalised, "head": head}, row, 3)
            for row in c.inputs
        ]
    )
    logits, _ = c.apply(c.params, c.rest, c.inputs)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert normalised.std() == pytest.approx(1.0, rel=1e-2)


@pytest.mark.parametrize("name", ["gpt", "lstm"])
def test_no_token_changes_an_earlier_logit(name):
    c = case(name)
    logits, _ = c.apply(c.params, c.rest, c.inputs)
    for t in range(c.inputs.shape[1]):
        changed = c.inputs.copy()
        changed[:, t] = (changed[:, t] + 1) % CLASSES
        other, _ = c.apply(c.params, c.rest, changed)
        np.testing.assert_array_equal(other[:, :t], logits[:, :t])
        assert (other[:, t:] != logits[:, t:]).any(axis=-1).all()


def test_shorter_inputs_serve_and_longer_ones_do_not():
    c = case("gpt")
    logits, _ = c.apply(c.params, c.rest, c.inputs)
    short, _ = c.apply(c.params, c.rest, c.inputs[:, :4])
    np.testing.assert_allclose(short, logits[:, :4], atol=1e-6)
    with pytest.raises(ValueError, match="tokens must be at most 6 long, got 7"):
        jax.eval_shape(c.model.apply, c.params, c.rest, np.zeros((1, 7), np.int32))


def test_first_loss_is_that_of_a_guess():
    c = case("gpt")
    assert float(c.loss(c.params, c.rest)[0]) == pytest.approx(np.log(CLASSES), rel=0.05)
