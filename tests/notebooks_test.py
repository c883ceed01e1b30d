"""Every notebook runs, is the run of its source, and opens in Colab."""

import pathlib

import jupytext
import nbclient
import pytest

NOTEBOOKS = pathlib.Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("[!_]*.py"))
# Half a minute of processor time or more at a tiny size, most of it compilation.
LONG = (
    "bilevel",
    "eight_bit",
    "hyper_cleaning",
    "implicit",
    "lora_sb",
    "sensitivity",
    "sso",
    "stn",
)


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def source(request):
    return request.param


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in LONG))
        for path in SOURCES
    ],
)
def test_runs_at_a_tiny_size(source, monkeypatch):
    monkeypatch.setenv("FAST", "1")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parent))
    # What the notebook's own process warns of is not this one's concern.
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    notebook = jupytext.read(source)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    last = notebook.cells[-1]
    assert "assert" in last.source, "the last cell asserts the claim"
    assert last.outputs, "the last cell says what was found"


def test_stored_notebook_is_the_run_of_its_source(source):
    stored = jupytext.read(source.with_suffix(".ipynb"))
    written = jupytext.read(source)
    assert [c.source for c in stored.cells] == [c.source for c in written.cells]
    code = [c for c in stored.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in code), "run `make notebooks`"
    images = [o for c in code for o in c.outputs if "image/png" in o.get("data", {})]
    assert images, "a stored notebook shows its plots"


def test_opens_in_colab(source):
    notebook = jupytext.read(source)
    badge, install = notebook.cells[0].source, notebook.cells[1].source
    assert "colab.research.google.com/assets/colab-badge.svg" in badge
    assert f"notebooks/{source.stem}.ipynb" in badge
    assert "google.colab" in install
    assert "%pip install" in install
