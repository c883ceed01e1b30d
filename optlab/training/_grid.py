"""The cells of a sweep: methods times points of a grid times seeds."""

import ast
import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from optlab.training._config import ConfigError, TrainConfig, field_type, override, validate
from optlab.training._registry import configured_optimizer

__all__ = ["Cell", "Times", "make_cells", "parse_axis", "short"]


class Times(NamedTuple):
    """A value of a grid that multiplies the method's own: every method gets as many points."""

    factor: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep.

    Attributes:
        method: the label of its config.
        values: of the grid, by dotted path.
        config: of the run, seed included.
    """

    method: str
    values: Mapping[str, Any]
    config: TrainConfig

    @property
    def name(self) -> str:
        """Of its folder."""
        parts = [self.method, *(f"{short(p)}={v}" for p, v in self.values.items())]
        return re.sub(r"[^\w=,.+-]+", "_", ",".join([*parts, f"seed={self.config.seed}"]))

    @property
    def numbers(self) -> dict[str, float]:
        """The values that a compiled program can take as arguments: those of the optimizer's."""
        return {path: v for path, v in self.values.items() if _is_number(path, v)}

    @property
    def kind(self) -> tuple[str, str]:
        """What it shares with the cells that one compiled program can serve."""
        return self.method, repr([v for p, v in self.values.items() if not _is_number(p, v)])


def short(path: str) -> str:
    """The last part of a dotted path."""
    return path.rpartition(".")[2]


def _is_number(path: str, value: Any) -> bool:
    # Whole numbers are counts, of which shapes may be made.
    return isinstance(value, float) and path.startswith("optimizer.")


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """Parses an axis of a grid, ``path=value,value``.

    Args:
        text: commas inside brackets belong to a value; ``x0.3`` is 0.3 times the method's own.

    Returns:
        The path and the values.

    Raises:
        ConfigError: if there is no path or no value.

    >>> parse_axis("optimizer.learning_rate=1e-3,x10")
    ('optimizer.learning_rate', [0.001, Times(factor=10.0)])
    """
    path, _, values = text.partition("=")
    parts = [part.strip() for part in re.split(r",(?![^(\[{]*[)\]}])", values)]
    if not path or not all(parts):
        raise ConfigError(f"grid must be such as optimizer.learning_rate=1e-3,1e-2, got {text!r}.")
    return path, [_parse(part) for part in parts]


def _parse(text: str) -> Any:
    if factor := re.fullmatch(r"x([\d.eE+-]+)", text):
        return Times(float(factor[1]))
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def make_cells(
    methods: Mapping[str, TrainConfig], grid: Mapping[str, Sequence[Any]], seeds: Iterable[int]
) -> list[Cell]:
    """Gives the cells of a sweep, checked.

    Args:
        methods: configs by label.
        grid: values by dotted path.
        seeds: of each point.

    Returns:
        Every method at every point with every seed: the same budget for all methods.

    Raises:
        ConfigError: if a field is unknown or a value does not suit it.

    >>> cells = make_cells({"adamw": TrainConfig()}, {"optimizer.learning_rate": [Times(0.1)]}, [7])
    >>> cells[0].name
    'adamw,learning_rate=0.0001,seed=7'
    """
    cells, seeds = [], list(seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds must be some, each once, got {seeds}.")
    for method, base in methods.items():
        axes = {path: _axis(base, path, values) for path, values in grid.items()}
        for point in itertools.product(*axes.values()):
            values = dict(zip(axes, point, strict=True))
            for seed in seeds:
                config = override(base, {**values, "seed": seed})
                cells.append(Cell(method=method, values=values, config=config))
    for cell in cells:
        validate(cell.config)
        configured_optimizer(cell.config.optimizer, cell.config.steps)  # checks its range
    return cells


def _axis(base: TrainConfig, path: str, values: Sequence[Any]) -> list[Any]:
    """The values of an axis for one method."""
    kind = field_type(base, path)
    if path == "seed":
        raise ConfigError("grid has an axis of seeds, which are given apart from it.")
    if not values:
        raise ConfigError(f"grid has no values for {path}.")
    found = []
    for value in values:
        if isinstance(value, Times):
            holder: Any = base
            for name in path.split("."):
                holder = holder.get(name) if isinstance(holder, dict) else getattr(holder, name)
            if isinstance(holder, bool) or not isinstance(holder, int | float):
                raise ConfigError(
                    f"grid multiplies {path}, which the config of {base.optimizer.name} does not "
                    "set to a number."
                )
            value = float(f"{holder * value.factor:.6g}")
        found.append(value)
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in found)
    if numbers and (kind is float or any(isinstance(v, float) for v in found)):
        found = [float(v) for v in found]
    if len({repr(v) for v in found}) < len(found):
        raise ConfigError(f"grid has a value of {path} twice: {', '.join(map(repr, found))}.")
    return found
