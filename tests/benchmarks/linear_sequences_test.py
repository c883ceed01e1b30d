"""The benchmark of sequences of linear systems: its parts, its table, its plot and its errors."""

import functools
import json

import numpy as np
import pytest

from benchmarks import _linear_sequences as sequences
from benchmarks import linear_sequences


@pytest.mark.slow
def test_command_writes_json_table_and_plot(tmp_path, capsys, monkeypatch):
    small = {
        "recycling": {"side": 16, "rank": 6, "cycle": 8},
        "relaxation": {"side": 6},
        "directions": {"side": 16},
    }
    for name, sizes in small.items():
        monkeypatch.setattr(sequences, name, functools.partial(getattr(sequences, name), **sizes))
    out = tmp_path / "new" / "sequences"
    flags = ["--systems=4", "--bandit_systems=8", "--steps=2", f"--out={out}"]
    assert linear_sequences.main(flags) == 0
    result = json.loads(out.with_suffix(".json").read_text())
    assert list(result["parts"]) == ["recycling", "hessians", "relaxation", "directions"]
    for part, count in zip(result["parts"].values(), (4, 2, 8, 4), strict=True):
        for counts in part.values():
            assert len(counts) == count
            assert min(counts) > 0
    relaxation = result["parts"]["relaxation"]
    best, each = list(relaxation.values())[-2:]
    assert np.sum(each) <= np.sum(best)
    assert np.sum(best) <= np.sum(relaxation["omega = 1 (Gauss-Seidel)"])
    table = out.with_suffix(".md").read_text()
    assert table == linear_sequences.table(result)
    assert table in capsys.readouterr().out
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_stored_figures_hold_what_is_claimed(request):
    """Recycling, the bandits and the learned direction each beat their plain counterpart."""
    folder = request.config.rootpath / "benchmarks" / "results"
    parts = json.loads((folder / "linear_sequences.json").read_text())["parts"]
    means = {part: {k: np.mean(v) for k, v in parts[part].items()} for part in parts}
    poisson = means["recycling"]
    assert poisson["recycling, sorted"] < 0.75 * poisson["conjugate gradients"]
    bandits = means["relaxation"]
    assert bandits["bandit"] < 0.6 * bandits["omega = 1 (Gauss-Seidel)"]
    assert bandits["contextual bandit"] < 0.8 * bandits["bandit"]
    learned = means["directions"]
    assert learned["learned directions"] < 0.2 * learned["conjugate gradients"]
    assert (folder / "linear_sequences.png").is_file()


@pytest.mark.parametrize("flag", ["--systems=1", "--bandit_systems=1", "--steps=0"])
def test_bad_input_is_one_sentence(flag, capsys):
    with pytest.raises(SystemExit) as stopped:
        linear_sequences.main([flag])
    assert stopped.value.code == 2
    assert "must be at least 2, --steps at least 1" in capsys.readouterr().err.splitlines()[-1]
