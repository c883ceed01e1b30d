"""Paired differences between the points of sweeps, against figures of a textbook's t table."""

import json

import pytest

from experiments import compare

SCORES = {"None": [1.0, 2.0, 4.0], "power8": [2.0, 4.0, 7.0], "linear8": [0.5, None, 3.0]}


@pytest.fixture
def folder(tmp_path):
    cells = [
        {"method": "adamw8bit", "codec": codec, "seed": seed, "status": "done", "test_loss": score}
        for codec, scores in SCORES.items()
        for seed, score in enumerate(scores)
    ]
    (tmp_path / "results.json").write_text(json.dumps({"cells": cells}))
    return tmp_path


def test_differences_are_taken_seed_by_seed(folder):
    points = compare.read_points(folder, "test_loss")
    head, _, base, power, linear = compare.rows(points, ["None"], "test_loss")
    assert "difference to None" in head
    assert base == "| `None` | 2.3333 | | | 3 |"
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt 3, and t of two degrees 4.3027.
    assert power == "| `power8` | 4.3333 | +2.0000 | -0.4841 to +4.4841 | 3 |"
    assert "nan" in linear  # of a run that diverged


def test_one_seed_tells_nothing_of_chance(folder):
    assert compare.interval([1.0]) == (1.0, float("inf"))


def test_mistakes_are_told_in_a_sentence(folder, capsys):
    with pytest.raises(ValueError, match="has no results of a sweep with 'test_los'"):
        compare.read_points(folder, "test_los")
    assert compare.main([str(folder), "--baseline=3"]) == 2
    assert capsys.readouterr().err == "--baseline must lie below the number of points, 3.\n"


def test_points_of_one_name_stay_apart(folder, capsys):
    assert compare.main([str(folder), str(folder)]) == 0
    table = capsys.readouterr().out
    assert "| `power8` |" in table
    assert f"| `{folder.name}: power8` |" in table


def test_prints_a_table(folder, capsys):
    assert compare.main([str(folder), "--baseline", "0", "1"]) == 0
    _, _, base, *_ = capsys.readouterr().out.splitlines()
    # Less the means 1.5, 3, 5.5: differences -0.5, -1, -1.5.
    assert base == "| `None` | 2.3333 | -1.0000 | -2.2421 to +0.2421 | 3 |"
