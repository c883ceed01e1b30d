"""The projection benchmark: its rows, its table and its errors."""

import json

import pytest

from benchmarks import projections


def test_command_writes_json_and_table(tmp_path, capsys):
    out = tmp_path / "new" / "projections"
    flags = ["--sizes=16,8", "--repeats=4", "--seconds=0.01", f"--out={out}", "--rank_share=0.25"]
    assert projections.main([*flags, "--projectors=dct-II"]) == 0
    result = json.loads(out.with_suffix(".json").read_text())
    found = [(row["size"], row["rank"], row["projector"]) for row in result["rows"]]
    assert found == [(16, 4, "svd"), (16, 4, "dct-II"), (8, 2, "svd"), (8, 2, "dct-II")]
    for row in result["rows"]:
        for what in ("refresh", "project"):
            assert 0 <= row[what]["lower"] <= row[what]["median"] <= row[what]["upper"]
            assert 3 <= row[f"{what}_samples"] <= 4
        assert row["projector"] != "svd" or row["refresh_ratio"] == 1
    assert out.with_suffix(".md").read_text() == projections.table(result)
    assert projections.table(result) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--sizes=1", "--sizes"),
        ("--sizes=a", "--sizes"),
        ("--rank_share=1", "--rank_share must lie in"),
        ("--repeats=0", "--repeats must be"),
        ("--projectors=dct", "projector must be"),
    ],
)
def test_bad_input_is_one_sentence(flag, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        projections.main([flag])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
