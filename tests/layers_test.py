"""The architecture as tests: layers, cheap imports, short files, nothing private or local."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A module imports its own family (its folder) or layers strictly below.
LAYERS = {
    "base": 0,
    "_arithmetic": 0,
    "_batches": 0.5,
    "_checks": 0,
    "_linear_solve": 0.5,  # knows the type of a tree
    "_loops": 0.5,
    "_sharding": 0,
    "_version": 0,
    "codecs": 1,
    "linalg": 1,
    "problems": 1,
    "schedules": 2,
    "transforms": 2,
    "transforms.quantized": 2.5,  # wraps transforms of the other families
    "zeroth_order": 2,
    "implicit": 3,
    "hypergrad": 3,
    "bilevel": 4,
    "minimax": 4,
    "distributed": 4,
    "training": 5,
    "catalog": 6,
}
TOP = 7  # optlab/__init__.py

MAX_LINES = 500
HEAVY = ("flax", "orbax", "lineax", "ml_collections", "sklearn", "matplotlib")
HIDDEN = (".ci", ".github")  # the hidden folders that belong to the project
GENERATED = ("__pycache__", "build", "dist", "runs")


def _files() -> list[Path]:
    """The project's own files, whether or not git knows them."""
    found = []
    for path in sorted(ROOT.rglob("*")):
        folders = path.relative_to(ROOT).parts[:-1]
        foreign = any(
            (f.startswith(".") and f not in HIDDEN) or f in GENERATED or f.endswith(".egg-info")
            for f in folders
        )
        if path.is_file() and not foreign:
            found.append(path)
    return found


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


SOURCES = [path for path in _files() if path.suffix == ".py"]
LIBRARY = [path for path in SOURCES if path.is_relative_to(ROOT / "optlab")]
OUTSIDE = [
    path
    for path in SOURCES
    if path.relative_to(ROOT).parts[0] in ("experiments", "benchmarks", "notebooks")
]


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _module(path: Path) -> str:
    """The dotted name of a file: optlab/linalg/__init__.py is optlab.linalg."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path) for path in LIBRARY}


def _package(path: Path) -> str:
    """The dotted name of the folder of a file."""
    return ".".join(path.relative_to(ROOT).parent.parts)


def _imports(path: Path, tree: ast.AST) -> set[str]:
    """The modules that a file imports; ``from a import b`` is a.b where optlab has that module."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = _package(path).split(".")
                base = ".".join(
                    [*above[: len(above) - node.level + 1], *filter(None, [node.module])]
                )
            submodules = {f"{base}.{alias.name}" for alias in node.names} & MODULES
            found |= submodules
            if len(submodules) < len(node.names):
                found.add(base)
    return found


def _layer(module: str) -> float:
    parts = module.split(".")
    return TOP if len(parts) == 1 else LAYERS.get(".".join(parts[1:3]), LAYERS[parts[1]])


def _is_optlab(module: str) -> bool:
    return module.split(".")[0] == "optlab"


def _violations(path: Path, tree: ast.AST) -> list[str]:
    """What breaks the layers in one file of the library."""
    module, family = _module(path), _package(path)
    if family.startswith("optlab.training."):  # one family in subfolders, not families in one
        family = "optlab.training"
    found = []
    for target in sorted(filter(_is_optlab, _imports(path, tree))):
        # A package belongs to its own folder, and may gather what lies in its subfolders.
        own = family != "optlab" and (target == family or target.startswith(family + "."))
        if own:
            continue
        if _layer(target) >= _layer(module):
            found.append(f"{module} imports {target}, which is not below it")
        elif any(part.startswith("_") for part in target.split(".")[2:]):
            found.append(f"{module} imports {target}, which is private to another family")
    return found


def test_every_module_has_a_layer():
    unknown = {name.split(".")[1] for name in MODULES if "." in name} - LAYERS.keys()
    assert not unknown, f"tests/layers_test.py assigns no layer to {sorted(unknown)}"


@pytest.mark.parametrize("path", LIBRARY, ids=_name)
def test_arrows_go_down(path):
    assert not _violations(path, _parse(path))


@pytest.mark.parametrize(
    ("file", "line", "verdict"),
    [
        ("transforms/sign/_lion_k.py", "from optlab.training import train", "not below"),
        ("transforms/sign/_lion_k.py", "from optlab import training", "not below"),
        ("transforms/sign/_lion_k.py", "from optlab import lion_k", "not below"),
        ("transforms/sign/_lion_k.py", "import optlab.schedules", "not below"),
        ("transforms/sign/_lion_k.py", "from ...training import train", "not below"),
        ("transforms/adaptive/_x.py", "from optlab.transforms.sign import lion_k", "not below"),
        ("transforms/sign/_lion_k.py", "def f():\n    import optlab.catalog", "not below"),
        ("base.py", "from optlab.linalg import newton_schulz", "not below"),
        ("transforms/sign/_x.py", "from optlab.linalg._norms import safe_norm", "private"),
        ("transforms/sign/_lion_k.py", "from optlab.transforms.sign._kappas import l1", None),
        ("transforms/sign/_lion_k.py", "from ._kappas import l1", None),
        ("transforms/sign/_lion_k.py", "from optlab.linalg import newton_schulz", None),
        ("transforms/sign/_lion_k.py", "from optlab import linalg", None),
        ("transforms/sign/_lion_k.py", "from optlab._checks import check_range", None),
        ("transforms/__init__.py", "from optlab.transforms.sign import lion_k", None),
        ("__init__.py", "from optlab import transforms", None),
    ],
)
def test_violations_are_seen(file, line, verdict):
    found = _violations(ROOT / "optlab" / file, ast.parse(line))
    assert (verdict is None and not found) or (verdict and verdict in " ".join(found))


@pytest.mark.parametrize("path", LIBRARY, ids=_name)
def test_library_stands_alone(path):
    """Experiments, benchmarks and tests are not in the wheel."""
    roots = {module.split(".")[0] for module in _imports(path, _parse(path))}
    assert not roots & {"benchmarks", "experiments", "notebooks", "tests"}


@pytest.mark.parametrize("path", OUTSIDE, ids=_name)
def test_users_never_import_an_underscore(path):
    private = [
        module
        for module in filter(_is_optlab, _imports(path, _parse(path)))
        if any(part.startswith("_") for part in module.split("."))
    ]
    assert not private


def test_import_is_cheap():
    """``import optlab`` brings in nothing heavy, nor anything that a GPU image may lack."""
    code = f"import optlab, sys; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split()


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_file_is_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{lines} lines"


def _private_jax(tree: ast.AST) -> set[str]:
    """The dotted names under jax with a part that starts with one underscore."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
    private = re.compile(r"jax(lib)?\.(\w+\.)*_(?!_)\w+")
    return {name for name in names if private.match(name)}


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_no_private_jax(path):
    assert not _private_jax(_parse(path))


@pytest.mark.parametrize(
    "line", ["import jax._src.core", "from jax import _src", "x = jax.numpy._f(1)", "jax._src.f()"]
)
def test_private_jax_is_seen(line):
    assert _private_jax(ast.parse(line))


# Folders of one machine's files. In a URL or a relative path a word precedes the slash.
LOCAL_PATH = re.compile(
    r"(?<![\w.~$})*/-])/(?:data|home|media|mnt|nfs|opt|root|scratch|srv|tmp|work|workspace|Users)/\w"
    r"|[A-Z]:\\+Users\\"
)


def test_no_path_of_a_machine():
    found = []
    for path in _files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{_name(path)}:{i}" for i, line in enumerate(lines, 1) if LOCAL_PATH.search(line)
        ]
    assert not found


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ('open("' + "/home" + '/me/x.npz")', True),
        ("--workdir=" + "/tmp" + "/run", True),
        ("see https://example.org/data/x", False),
        ("experiments/data/digits.py", False),
        ("#!/usr/bin/env bash", False),
    ],
)
def test_local_paths_are_seen(text, local):
    assert bool(LOCAL_PATH.search(text)) == local
