"""A public name without docs, doctest, catalog row or reference fails the build."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path

import optax
import pytest

import optlab
from optlab import catalog
from optlab.training import load_config
from optlab.training.bilevel import BilevelConfig

ROOT = Path(__file__).resolve().parents[1]
MAX_DOCTEST_LINES = 8


def _public_modules() -> list:
    """optlab and every module under it whose dotted name has no underscored part."""
    names = [info.name for info in pkgutil.walk_packages(optlab.__path__, "optlab.")]
    public = [name for name in names if not any(p.startswith("_") for p in name.split("."))]
    return [optlab, *map(importlib.import_module, public)]


MODULES = _public_modules()


def _public_objects(kind) -> dict:
    """The functions or classes of every ``__all__``, each once, by its dotted name."""
    found = {}
    for module in MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            own = getattr(value, "__module__", "").split(".")[0] == "optlab"
            if kind(value) and own:
                found[value] = f"{module.__name__}.{name}"  # a deeper module overrides optlab's own
    return {name: value for value, name in sorted(found.items(), key=lambda item: item[1])}


FUNCTIONS = _public_objects(inspect.isfunction)
CLASSES = _public_objects(inspect.isclass)


def _sections(function) -> dict[str, str]:
    """The docstring's Google sections: a header at the margin, then indented lines."""
    doc = inspect.getdoc(function) or ""
    pattern = re.compile(r"^(Args|Returns|Raises|References):\n((?:[ \t]+.*\n?|\n)+)", re.MULTILINE)
    return dict(pattern.findall(doc))


def _functions(test):
    return pytest.mark.parametrize("name", FUNCTIONS)(test)


def _classes(test):
    return pytest.mark.parametrize("name", CLASSES)(test)


def _rows(test):
    return pytest.mark.parametrize("row", catalog.METHODS, ids=lambda row: row.name)(test)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_module_says_what_it_is_and_what_it_offers(module):
    assert module.__doc__, "no docstring"
    assert len(set(module.__all__)) == len(module.__all__)
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert not missing, f"__all__ names {missing}, which do not exist"


@_functions
def test_function_opens_with_one_line(name):
    doc = inspect.getdoc(FUNCTIONS[name])
    assert doc, "no docstring"
    first, *rest = doc.splitlines()
    assert first.endswith((".", ":")), f"the first line is no sentence: {first!r}"
    assert not rest or not rest[0].strip(), "no blank line after the first line"


@_functions
def test_every_argument_is_described(name):
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    section = textwrap.dedent(_sections(FUNCTIONS[name]).get("Args", ""))
    entries = re.findall(r"^(\S[^:]*):", section, re.MULTILINE)  # "b1, b2: ..." describes two
    described = set(re.findall(r"\w+", " ".join(entries)))
    assert not parameters.keys() - described, "arguments that Args does not describe"


@_functions
def test_result_is_described(name):
    result = inspect.signature(FUNCTIONS[name]).return_annotation
    assert result is not inspect.Signature.empty, "no annotation of what it returns"
    if result is not None:
        assert _sections(FUNCTIONS[name]).get("Returns", "").strip(), "no Returns section"


@_functions
def test_errors_are_described(name):
    source = ast.parse(textwrap.dedent(inspect.getsource(FUNCTIONS[name])))
    raised = {
        node.exc.func.id
        for node in ast.walk(source)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
    }
    described = _sections(FUNCTIONS[name]).get("Raises", "")
    assert not [error for error in raised if error not in described], "errors not in Raises"


@_functions
def test_function_has_a_short_doctest(name):
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(FUNCTIONS[name]) or "")
    assert examples, "no doctest"
    lines = sum(len(example.source.splitlines()) for example in examples)
    assert lines <= MAX_DOCTEST_LINES, f"the doctest has {lines} lines"


@_classes
def test_class_and_its_methods_have_docstrings(name):
    value = CLASSES[name]
    generated = f"{value.__name__}("  # what NamedTuple and dataclass write when nobody else does
    assert not (value.__doc__ or generated).startswith(generated), "no docstring"
    methods = {k: v for k, v in vars(value).items() if inspect.isfunction(v) and k[0] != "_"}
    bare = [k for k, v in methods.items() if not v.__doc__]
    assert not bare, f"methods without docstrings: {bare}"


STATES = [n for n, c in CLASSES.items() if issubclass(c, tuple) and n.endswith("State")]


@pytest.mark.parametrize("name", STATES)
def test_state_fields_tell_shape_and_dtype(name):
    value = CLASSES[name]
    lines = inspect.getsource(value).splitlines()
    fields = [line for line in lines if re.match(rf"\s+({'|'.join(value._fields)})\s*:", line)]
    assert len(fields) == len(value._fields)
    bare = [line.strip() for line in fields if "#" not in line]
    assert not bare, f"fields without a comment: {bare}"


def _makes_transform(function) -> bool:
    result = inspect.signature(function).return_annotation
    return inspect.isclass(result) and issubclass(result, optax.GradientTransformation)


def _references(function) -> str:
    """The References of a function, and of the functions that its docstring points to."""
    module = inspect.getmodule(function)
    pointers = re.findall(r":func:`~?(?:[\w.]*\.)?(\w+)`", inspect.getdoc(function) or "")
    pointed = [getattr(module, name, None) for name in pointers]
    return "\n".join(_sections(f).get("References", "") for f in (function, *pointed) if f)


TRANSFORMS = [
    name
    for name, function in FUNCTIONS.items()
    if _makes_transform(function) and not name.startswith("optlab.training.")  # builds others'
]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform_cites_its_papers(name):
    references = _references(FUNCTIONS[name])
    assert references.strip(), "neither References nor a :func: pointer to a function that has them"


def test_every_ready_optimizer_has_a_row():
    ready = {
        name
        for name in optlab.__all__
        if inspect.isfunction(value := getattr(optlab, name)) and _makes_transform(value)
    }
    rows = {row.name for row in catalog.OPTIMIZERS}
    assert ready == rows, "the ready optimizers of optlab and the rows of the catalog differ"


def _plain(text: str) -> str:
    """Text without case, braces, line breaks and hyphens, to find a title in it."""
    return re.sub(r"[\s-]+", " ", re.sub(r"[{}]", "", text)).lower()


def _bibliography() -> dict[str, dict[str, str]]:
    text = (ROOT / "optlab" / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{([^,\s]+),(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    field = re.compile(r"^\s*(\w+)\s*=\s*\{(.*?)\},?\s*$", re.MULTILINE | re.DOTALL)
    return {key: dict(field.findall(body)) for key, body in entries}


BIBLIOGRAPHY = _bibliography()


def _cites(text: str, key: str) -> bool:
    """Whether a text names a paper by its arXiv number or its title."""
    entry = BIBLIOGRAPHY[key]
    number = entry.get("eprint")
    return bool(number and number in text) or _plain(entry["title"]) in _plain(text)


@_rows
def test_row_resolves(row):
    assert row.symbol == f"optlab.{row.family}.{row.name}"
    module, _, name = row.public.rpartition(".")
    assert getattr(importlib.import_module(module), name) is row.factory()
    assert row.summary
    assert not row.summary.endswith("."), "the summary is a clause of a table, not a sentence"


@_rows
def test_row_has_its_files(row):
    """Config and notebook exist; the config bears the method's name, the notebook uses it.

    A bilevel config bears its problem's name, and with the row's variant runs the method.
    """
    if row.config is not None:
        config, family = ROOT / "experiments" / "configs" / row.config, row.family.split(".")[-1]
        if family == "bilevel":
            assert load_config(str(config), BilevelConfig).solver.name == row.name
        else:
            assert config.is_file()
            assert row.config.startswith(f"{family}_{row.name}_")
    if row.notebook is not None:
        notebook = ROOT / "notebooks" / row.notebook
        assert notebook.is_file()
        assert re.search(rf"\b{row.name}\b", notebook.with_suffix(".py").read_text("utf-8"))


@_rows
def test_row_cites_its_papers(row):
    assert row.papers, "a method has a paper"
    assert not set(row.papers) - BIBLIOGRAPHY.keys(), "papers that references.bib lacks"
    references = _references(row.factory())
    uncited = [key for key in row.papers if not _cites(references, key)]
    assert not uncited, f"the docstring cites neither number nor title of {uncited}"


def test_bibliography_is_well_formed():
    text = (ROOT / "optlab" / "references.bib").read_text(encoding="utf-8")
    keys = re.findall(r"^\s*@\w+\{([^,\s]+)", text, re.MULTILINE)
    assert keys == sorted(set(keys)), "entries are sorted by key, each once"
    assert list(BIBLIOGRAPHY) == keys, "an entry cannot be read"
    incomplete = [
        k for k, entry in BIBLIOGRAPHY.items() if not {"author", "title", "year"} <= entry.keys()
    ]
    assert not incomplete


def test_every_entry_of_the_bibliography_is_used():
    """By a row of the catalog, or by the text of a module."""
    used = {key for row in catalog.METHODS for key in row.papers}
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "optlab").rglob("*.py")]
    unused = [
        key
        for key in BIBLIOGRAPHY.keys() - used
        if not any(key in text or _cites(text, key) for text in texts)
    ]
    assert not unused


def test_readme_holds_the_catalog():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert catalog.markdown_table() in readme, "python -m optlab.catalog prints another table"
