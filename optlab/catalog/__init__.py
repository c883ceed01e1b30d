"""The table of methods: one row each, in a file a family, and a command that prints them.

``python -m optlab.catalog`` lists all rows; with a name it tells how to use that method; ``--cite``
prints BibTeX, ``--json`` everything. Tests, benchmarks and the README read the same table.
"""

import difflib
import importlib.resources
import re
from collections.abc import Sequence

from optlab.catalog import (
    _adaptive,
    _bilevel,
    _curvature,
    _hypergrad,
    _learning_rate_free,
    _linalg,
    _low_rank,
    _matrix,
    _quantized,
    _sign,
)
from optlab.catalog._method import Method

__all__ = ["METHODS", "OPTIMIZERS", "Method", "bibtex", "get", "markdown_table"]

METHODS: tuple[Method, ...] = (
    *_adaptive.ROWS,
    *_curvature.ROWS,
    *_learning_rate_free.ROWS,
    *_low_rank.ROWS,
    *_matrix.ROWS,
    *_quantized.ROWS,
    *_sign.ROWS,
    *_bilevel.ROWS,
    *_hypergrad.ROWS,
    *_linalg.ROWS,
)

OPTIMIZERS: tuple[Method, ...] = tuple(method for method in METHODS if method.unswept is None)


def get(name: str) -> Method:
    """Finds a row by name.

    Args:
        name: the method's name.

    Returns:
        Its row.

    Raises:
        ValueError: if there is no such row; the message offers the nearest names.

    >>> get("lion_k").family
    'transforms.sign'
    """
    rows = {method.name: method for method in METHODS}
    if name not in rows:
        near = difflib.get_close_matches(name, rows, n=3) or sorted(rows)
        raise ValueError(f"name {name!r} is not in the catalog; did you mean {', '.join(near)}?")
    return rows[name]


def bibtex(keys: Sequence[str]) -> str:
    """Gives the BibTeX entries of ``keys``, in their order.

    Args:
        keys: keys of ``optlab/references.bib``.

    Returns:
        The entries' text, separated by blank lines.

    Raises:
        KeyError: if a key has no entry.

    >>> bibtex(["chen2023lion"]).splitlines()[0]
    '@inproceedings{chen2023lion,'
    """
    text = (importlib.resources.files("optlab") / "references.bib").read_text(encoding="utf-8")
    entries = dict(re.findall(r"^(?=@\w+\{([^,]+),)(@.+?^\})", text, re.M | re.S))
    return "\n\n".join(entries[key] for key in keys)


def markdown_table() -> str:
    """Gives the catalog as the Markdown table that the README holds.

    Returns:
        One line a method under a header.

    >>> markdown_table().splitlines()[0]
    '| method | what it is | bytes/param | family |'
    """
    lines = ["| method | what it is | bytes/param | family |", "|---|---|---|---|"]
    for m in METHODS:
        size = "" if m.state_bytes is None else f"{m.state_bytes:g}"
        lines.append(f"| `{m.public}` | {m.summary} | {size} | `{m.family}` |")
    return "\n".join(lines)
