"""The hypergradient benchmark: its rows, its table and its errors."""

import json

import pytest

from benchmarks import _hypergradient_methods as methods
from benchmarks import hypergradients
from optlab.problems import HYPERGRADIENT_PROBLEMS


def test_command_writes_json_and_table(tmp_path, capsys, monkeypatch):
    chosen = methods.given_solution

    def few(problem):
        def refuses(*args):
            raise TypeError("a peer that cannot")

        return {"optlab cg": chosen(problem)["optlab cg"], "refuses": refuses}

    monkeypatch.setattr(methods, "given_solution", few)
    monkeypatch.setattr(methods, "PEERS", ())
    monkeypatch.setattr(hypergradients, "_SAMPLE_SECONDS", 0.0)
    out = tmp_path / "new" / "table"
    flags = ["--parts", "given", "unrolled", "--problems", "ridge_bc", "--repeats=2", "--steps=9"]
    assert hypergradients.main([*flags, f"--out={out}"]) == 0
    result = json.loads(out.with_suffix(".json").read_text())
    rows = {row["method"]: row for row in result["rows"]}
    assert list(rows) == [
        "optlab cg", "refuses", "optlab unrolled", "optlab unrolled, checkpoints",
    ]  # fmt: skip
    cg = rows["optlab cg"]
    assert cg["float64"]["error"] < 1e-8
    assert cg["float32"]["error"] < 1e-5
    assert cg["float64"]["failed"] is False
    assert cg["float64"]["milliseconds"] > 0
    assert rows["refuses"]["float32"]["note"] == "TypeError"
    plain, saved = (rows[name]["float64"] for name in list(rows)[2:])
    assert plain["failed"], "nine steps are no solution"
    assert saved["error"] == pytest.approx(plain["error"], rel=1e-9)
    table = out.with_suffix(".md").read_text()
    assert table == hypergradients.table(result)
    assert table in capsys.readouterr().out
    assert "| refuses | float64 | raises: TypeError |" in table
    assert "- ridge_bc: checkpoints take" in table


def test_the_stored_figures_hold_what_is_claimed(request):
    """Beside the peers of the same run; CPU times by ratio."""
    folder = request.config.rootpath / "benchmarks" / "results"
    result = json.loads((folder / "hypergradients_cpu.json").read_text())
    rows = {(r["part"], r["problem"], r["method"]): r for r in result["rows"]}

    def cell(part, name, method, what, dtype="float64"):
        return rows[part, name, method][dtype][what]

    for name in HYPERGRADIENT_PROBLEMS:
        assert cell("given", name, "optlab cg", "error") < 1e-8
        assert cell("given", name, "optlab cg", "error", "float32") < 1e-5
        # The residual is measured, which costs one product of some ten.
        ours, theirs = (
            cell("given", name, method, "milliseconds")
            for method in ("optlab cg", "jaxopt solve_cg, tol 1e-10")
        )
        assert ours < 1.15 * theirs
        ours, theirs = (
            cell("end_to_end", name, method, "milliseconds")
            for method in ("optlab lbfgs, unit steps + cg", "optimistix LBFGS + lineax CG")
        )
        assert ours < theirs
        plain, saved = (
            rows["unrolled", name, method]["float64"]
            for method in ("optlab unrolled", "optlab unrolled, checkpoints")
        )
        # One more forward pass: 1.2 on the digits, 1.36 where the backward pass is as cheap.
        assert saved["milliseconds"] < 1.4 * plain["milliseconds"]
        assert saved["temp_bytes"] < 0.1 * plain["temp_bytes"]
    for library in ("jaxopt", "torchopt"):
        assert cell("given", "ridge_bc_ill", f"{library} default (normal_cg)", "error") > 0.9


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--repeats=0", "--repeats and --steps must be at least 1"),
        ("--problems=ridge", "invalid choice: 'ridge'"),
        ("--parts=all", "invalid choice: 'all'"),
    ],
)
def test_bad_input_is_one_sentence(flag, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        hypergradients.main([flag])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
