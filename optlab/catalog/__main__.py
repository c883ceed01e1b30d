"""The catalog's command line."""

import argparse
import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Sequence

from optlab.catalog import METHODS, Method, bibtex, get, markdown_table


def _signature(method: Method) -> str:
    signature = inspect.signature(method.factory())
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    text = str(signature.replace(parameters=bare, return_annotation=signature.empty))
    return method.name + re.sub(r"<function (?:\S+\.)?(\S+) at \w+>", r"\1", text)


def _example(method: Method) -> str:
    """The call of the working example; what it leaves to the caller stands there by name."""
    left = [
        f"{p.name}=..." if p.kind is p.KEYWORD_ONLY else p.name
        for p in inspect.signature(method.factory()).parameters.values()
        if p.default is p.empty and p.kind is not p.VAR_KEYWORD and p.name not in method.arguments
    ]
    given = [f"{name}={value!r}" for name, value in method.arguments.items()]
    return f"{method.public}({', '.join([*left, *given])})"


def _describe(method: Method) -> str:
    lines = [
        f"{method.name}: {method.summary}",
        "",
        f"  use        {_example(method)}",
        f"  signature  {_signature(method)}",
        f"  source     {method.symbol}",
    ]
    if method.unswept:
        lines.append(f"  note       {method.unswept}")
    if method.state_bytes is not None:
        lines.append(f"  state      {method.state_bytes:g} bytes per float32 parameter")
    if method.variants:
        lines.append(f"  variants   {'; '.join(method.variants)}")
    if method.config:
        binary = "bilevel" if method.config.startswith("bilevel_") else "train"
        command = f"python -m experiments.{binary} --config=experiments/configs/{method.config}"
        lines.append(f"  train      {command} --workdir=runs/{method.name}")
    if method.notebook:
        lines.append(f"  notebook   notebooks/{method.notebook}")
    return "\n".join([*lines, "", bibtex(method.papers)])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line: ``python -m optlab.catalog --help``.

    Args:
        argv: arguments; None takes the process's.

    Returns:
        The exit code: 0, or 2 for an unknown name.
    """
    parser = argparse.ArgumentParser(
        prog="python -m optlab.catalog", description="The methods of optlab."
    )
    parser.add_argument("name", nargs="*", help="methods to describe; all are listed without one")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--markdown", action="store_true", help="print the README's table")
    parser.add_argument("--cite", action="store_true", help="print the BibTeX of their papers")
    arguments = parser.parse_args(argv)
    try:
        methods = [get(name) for name in arguments.name] or METHODS
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps([dataclasses.asdict(m) for m in methods], indent=2))
    elif arguments.markdown:
        print(markdown_table())
    elif arguments.cite:
        print(bibtex(list(dict.fromkeys(key for m in methods for key in m.papers))))
    elif arguments.name:
        print("\n\n".join(map(_describe, methods)))
    else:
        width, families = (max(len(getattr(m, f)) for m in methods) for f in ("name", "family"))
        for m in methods:
            print(f"{m.name:{width}}  {m.family:{families}}  {m.summary}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
