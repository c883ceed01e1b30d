"""What a row of the catalog says."""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

__all__ = ["Method"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """One published method.

    Attributes:
        name: the factory's public name.
        family: its folder under ``optlab``, dotted.
        symbol: dotted path of the factory.
        summary: what it is, in one clause.
        papers: keys into ``references.bib``.
        unswept: None for a ready optimizer; else what keeps a method from being one. The contract
            tests, the benchmarks and configs take ready optimizers only.
        arguments: keyword arguments of a working example.
        variants: further keyword arguments that the contract tests sweep, by label.
        state_bytes: bytes of state that one float32 parameter of a large matrix costs at rest;
            None where that is no number of its own.
        config: a config under ``experiments/configs``, with ``:variant`` where it is one; or None.
        notebook: a notebook under ``notebooks``, or None.
    """

    name: str
    family: str
    symbol: str
    summary: str
    papers: tuple[str, ...]
    unswept: str | None = None
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    state_bytes: float | None = None
    config: str | None = None
    notebook: str | None = None

    @property
    def public(self) -> str:
        """The shortest name a user can import it by: optlab itself offers the ready optimizers."""
        return self.symbol if self.unswept else f"optlab.{self.name}"

    def factory(self):
        """The function that ``symbol`` names."""
        module, _, name = self.symbol.rpartition(".")
        return getattr(importlib.import_module(module), name)

    def make(self, **overrides):
        """Builds the working example, with ``overrides`` in place of or beside its arguments."""
        return self.factory()(**{**self.arguments, **overrides})
