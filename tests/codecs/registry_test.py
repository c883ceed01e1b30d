"""Codecs as text and as plain data."""

import json

import pytest

from optlab import codecs


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("power8", codecs.power8()),
        ("dynamic8", codecs.dynamic8()),
        ("power8(block=128, signed=False)", codecs.power8(128, signed=False)),
        ("power8(64)", codecs.power8(64)),
        ("float8('e5m2')", codecs.float8("e5m2")),
        ("nvfp4(rotation=3)", codecs.nvfp4(rotation=3)),
        ("per_tensor('linear8')", codecs.per_tensor("linear8")),
    ],
)
def test_text(text, codec):
    assert codecs.get(text) == codec
    assert codecs.get(codec) is codec


def test_options_are_added():
    assert codecs.get("power8(128)", signed=False) == codecs.power8(128, signed=False)
    with pytest.raises(ValueError, match="options are for a codec's name"):
        codecs.get(codecs.power8(), signed=False)


@pytest.mark.parametrize(
    "text", ["power9", "power8(", "power8(blocks=3)", "power8(x)", "", "1", None]
)
def test_bad_text_is_refused(text):
    with pytest.raises(ValueError, match="codec must be a codec or"):
        codecs.get(text)


def test_a_scale_for_all_is_for_codecs_that_have_one():
    assert codecs.get("per_tensor('linear4_nozero')", signed=False).bits == 4
    with pytest.raises(ValueError, match="of must be a codec that divides by one scale"):
        codecs.per_tensor("coat8")


@pytest.mark.parametrize(
    "data", [{}, {"block": 3}, {"name": "power9"}, {"name": "power8", "blocks": 3}]
)
def test_bad_data_is_refused(data):
    with pytest.raises(ValueError, match="codec"):
        codecs.from_spec(data)


def test_data_is_json():
    data = json.loads(json.dumps(codecs.spec(codecs.power8(scale_dtype="bfloat16"))))
    assert data == {
        "name": "power8",
        "block": 256,
        "scale_dtype": "bfloat16",
        "signed": True,
        "safe_zero": True,
        "p": 2,
    }
