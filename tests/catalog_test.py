"""The catalog's command line."""

import json

import pytest

from optlab import catalog
from optlab.catalog.__main__ import main


def test_lists_every_method(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [m.name for m in catalog.METHODS]


@pytest.mark.parametrize("name", [m.name for m in catalog.METHODS])
def test_describes_a_method(name, capsys):
    assert main([name]) == 0
    out = capsys.readouterr().out
    assert f"{catalog.get(name).public}(" in out
    assert "@" in out  # its papers
    assert " at 0x" not in out  # a default that is a function


def test_tells_calls_and_commands_that_work(capsys):
    """What a call needs stands in it, and bilevel configs have a binary of their own."""
    main(["saba"])
    out = capsys.readouterr().out
    assert "optlab.bilevel.saba(outer, inner, outer_batches=..., " in out
    assert "experiments.bilevel --config=experiments/configs/bilevel_hyper_cleaning" in out
    assert "mnist.py:saba --workdir=runs/saba" in out


def test_json_and_cite(capsys):
    assert main(["--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["name"] == catalog.METHODS[0].name
    assert main(["--cite", "signum", "normalized_momentum"]) == 0
    out = capsys.readouterr().out
    # A paper that both share is printed once.
    assert out.count("@inproceedings{chen2024lionk,") == 1
    assert out.count("@") == 3


def test_an_unknown_name_offers_the_nearest(capsys):
    assert main(["lionk"]) == 2
    assert "did you mean lion_k" in capsys.readouterr().err
