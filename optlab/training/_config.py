"""What a training run is made of: typed configs, where they come from, and the check of them."""

import ast
import copy
import dataclasses
import difflib
import functools
import math
import pathlib
import re
import runpy
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

__all__ = [
    "Arguments",
    "ConfigError",
    "DataConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RunConfig",
    "TrainConfig",
    "apply_variant",
    "at_least",
    "field_type",
    "load_config",
    "nearest",
    "one_of",
    "override",
    "validate",
]


class ConfigError(ValueError):
    """A mistake in a config, a workdir or a command, told in one sentence."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Ends a sentence about an unknown name: with the names it may have meant, or all there are."""
    names = sorted(names)
    near = difflib.get_close_matches(name, names, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there is {', '.join(names) or 'none'}."


class Arguments(dict):
    """Keyword arguments of a factory; a name that is absent reads as a field of any type.

    This lets ``--config.optimizer.arguments.<name>=<value>`` set what the config left at its
    default: config_flags asks for the present value's type, and for an object parses any literal.
    """

    def __missing__(self, name: str) -> object:
        return object()


def at_least(minimum: float, default: Any) -> Any:
    return dataclasses.field(default=default, metadata={"at_least": minimum})


def one_of(*choices: str) -> Any:
    """A field that has the first choice by default."""
    return dataclasses.field(default=choices[0], metadata={"one_of": choices})


# Slots make a misspelt field an error in Python too, not a silent no-op.
@dataclasses.dataclass(slots=True, kw_only=True)
class ModelConfig:
    """A model by name, and its hyperparameters; None leaves one to the model.

    Attributes:
        name: ``mlp``, ``cnn``, ``few_shot_cnn``, ``resnet`` or ``vit`` for images, ``lstm`` or
            ``gpt`` for texts.
        widths: of the hidden layers of an mlp, the channels of a cnn or few_shot_cnn.
        width, depth, heads, patch, dropout, tied, stable_embedding, layers: see
            :mod:`optlab.training.models`.
    """

    name: str = "mlp"
    widths: tuple[int, ...] = at_least(1, (128, 128))
    width: int | None = at_least(1, None)
    depth: int | None = at_least(1, None)
    heads: int | None = at_least(1, None)
    patch: int | None = at_least(1, None)
    dropout: float | None = None
    tied: bool | None = None
    stable_embedding: bool | None = None
    layers: str | None = None


@dataclasses.dataclass(slots=True, kw_only=True)
class DataConfig:
    """A data set by name.

    Attributes:
        name: one of ``optlab.training.data.DATASETS``.
        length: tokens that an example of a language model has to predict.
        split: which of the published splits, where there are several.
    """

    name: str = "digits"
    length: int = at_least(1, 128)
    split: int = at_least(0, 0)


@dataclasses.dataclass(slots=True, kw_only=True)
class MeshConfig:
    """How many devices share the work: ``data`` times ``fsdp``; each batch is split over them all.

    Attributes:
        data: groups of devices with a copy of the parameters each.
        fsdp: devices a group, each of which keeps one part of the parameters and of the optimizer
            state.
    """

    data: int = at_least(1, 1)
    fsdp: int = at_least(1, 1)


@dataclasses.dataclass(slots=True, kw_only=True)
class OptimizerConfig:
    """An optimizer of optax, optax.contrib or optlab, and its learning rate over time.

    Attributes:
        name: see :func:`optlab.training.make_optimizer`.
        learning_rate: the peak.
        schedule: ``constant``, ``cosine`` or ``linear``; the latter two end at zero.
        warmup_steps: steps of linear growth from zero to the peak.
        statistics: whether it is given the statistics of the layers, as MKOR wants them: see
            :func:`optlab.transforms.curvature.layer_taps`.
        arguments: further keyword arguments of the factory.
    """

    name: str = "adamw"
    learning_rate: float = at_least(0, 1e-3)
    schedule: str = "cosine"
    warmup_steps: int = at_least(0, 0)
    statistics: bool = False
    arguments: Arguments = dataclasses.field(default_factory=Arguments)

    def __setattr__(self, field, value):
        if field == "arguments" and isinstance(value, Mapping):
            value = Arguments(value)
        object.__setattr__(self, field, value)


@dataclasses.dataclass(slots=True, kw_only=True)
class RunConfig:
    """What every run has: the same config gives the same result, bit for bit.

    Attributes:
        seed: of the initial parameters and of the order of the examples.
        steps: updates in all.
        log_every, eval_every, checkpoint_every: in steps; the last step does all three.
    """

    seed: int = at_least(0, 0)
    steps: int = at_least(1, 1000)
    log_every: int = at_least(1, 50)
    eval_every: int = at_least(1, 100)
    checkpoint_every: int = at_least(1, 500)

    def check(self) -> None:
        """Raises ConfigError where fields that are right one by one contradict each other."""


@dataclasses.dataclass(slots=True, kw_only=True)
class TrainConfig(RunConfig):
    """One training run, whole.

    Attributes:
        batch_size: examples a step.
        accumulate: parts that a batch is cut into, of which one at a time is in memory. The step is
            that of the whole batch, but for the batch statistics and the dropout of each part.
        param_dtype: ``float32``, or ``bfloat16`` with stochastic rounding: the optimizer works in
            float32, the model computes in bfloat16.
        eval_batch_size: held-out examples at a time.
        evaluate: the ``last`` parameters, or the ``average`` that the optimizer keeps of them: see
            :func:`optlab.transforms.learning_rate_free.polynomial_averaging`.
        on_nonfinite: what to do at a loss that is inf or NaN: ``stop`` the run, by its next log
            line, with nothing saved beyond the step before; ``skip`` the step and count it, as one
            whose gradient norm is so in float32; or ``ignore`` it. Parameters that have become so
            stop all but the latter.
        profile_steps: a window such as ``10:20``, a slice of the steps, for jax's profiler; a run
            may go on with another one.
        model, data, optimizer, mesh: see their classes.
    """

    batch_size: int = at_least(1, 64)
    accumulate: int = at_least(1, 1)
    param_dtype: str = one_of("float32", "bfloat16")
    eval_batch_size: int = at_least(1, 512)
    evaluate: str = one_of("last", "average")
    on_nonfinite: str = one_of("stop", "skip", "ignore")
    profile_steps: str = ""
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)

    def check(self) -> None:
        """See :class:`RunConfig`."""
        if self.optimizer.warmup_steps > self.steps:
            raise ConfigError("config.optimizer.warmup_steps must not exceed config.steps.")
        window = re.fullmatch(r"(\d+):(\d+)", self.profile_steps)
        if self.profile_steps and not (window and int(window[1]) < int(window[2])):
            raise ConfigError(
                f"config.profile_steps must be such as '10:20', got {self.profile_steps!r}."
            )
        devices = self.mesh.data * self.mesh.fsdp
        if self.batch_size % (self.accumulate * devices):
            shares = " times ".join(
                f"the {count} {what}"
                for count, what in (
                    (self.accumulate, "parts of accumulate"),
                    (devices, "devices"),
                )
                if count > 1
            )
            raise ConfigError(
                f"config.batch_size must be a multiple of {shares}, got {self.batch_size}."
            )


AnyConfig = TypeVar("AnyConfig", bound=RunConfig)


def field_type(config: RunConfig, path: str) -> Any:
    """Gives the annotated type of a field.

    Args:
        config: the config that holds it.
        path: dotted, such as ``optimizer.learning_rate``.

    Returns:
        Its type; ``object`` for an argument of a factory.

    Raises:
        ConfigError: if there is no such field; the message offers the nearest.

    >>> field_type(TrainConfig(), "optimizer.learning_rate")
    <class 'float'>
    """
    holder, kind, above = config, type(config), "config"
    for name in path.split("."):
        if isinstance(holder, Arguments):
            holder, kind = None, object
            continue
        kinds = typing.get_type_hints(type(holder)) if dataclasses.is_dataclass(holder) else {}
        if name not in kinds:
            raise ConfigError(f"{above} has no field {name!r}; {nearest(name, kinds)}")
        holder, kind, above = getattr(holder, name), kinds[name], f"{above}.{name}"
    return kind


def override(config: AnyConfig, changes: Mapping[str, Any]) -> AnyConfig:
    """Copies a config with some of its fields changed.

    Args:
        config: stays as it is.
        changes: values by dotted path.

    Returns:
        The changed copy; :func:`validate` checks the types.

    Raises:
        ConfigError: if a path names no field.

    >>> override(TrainConfig(), {"optimizer.name": "lion", "steps": 5}).optimizer.name
    'lion'
    """
    config = copy.deepcopy(config)
    for path, value in changes.items():
        field_type(config, path)
        *parents, name = path.split(".")
        holder = functools.reduce(getattr, parents, config)
        if isinstance(holder, Arguments):
            holder[name] = value
        else:
            setattr(holder, name, value)
    return config


def apply_variant(
    config: AnyConfig, variant: str, variants: Mapping[str, Mapping[str, Any]]
) -> AnyConfig:
    """Applies the part of ``--config=file.py:variant,field=value`` after the colon.

    Args:
        config: the base.
        variant: names of variants and ``field=value`` pairs, separated by commas, applied in order.
        variants: the changes that each name stands for, by dotted path.

    Returns:
        The changed copy.

    Raises:
        ConfigError: if a variant or a field is unknown.

    >>> apply_variant(TrainConfig(), "tiny,seed=3", {"tiny": {"steps": 5}}).steps
    5
    """
    # Commas inside brackets belong to a value such as (64, 64).
    for part in filter(None, re.split(r",(?![^(\[{]*[)\]}])", variant)):
        name, is_pair, text = part.partition("=")
        if is_pair:
            changes = {name: _parse(text, field_type(config, name))}
        elif name in variants:
            changes = variants[name]
        else:
            raise ConfigError(f"config has no variant {name!r}; {nearest(name, variants)}")
        config = override(config, changes)
    return config


def _parse(text: str, kind: Any) -> Any:
    if kind is str:
        return text
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def load_config(spec: str, kind: type[AnyConfig] = TrainConfig) -> AnyConfig:
    """Loads ``path/to/file.py[:variant,field=value]``, a file that defines ``get_config(variant)``.

    Args:
        spec: as after ``--config=``.
        kind: of config that is wanted.

    Returns:
        The config, validated.

    Raises:
        ConfigError: if the file is missing or gives no such config, and as :func:`apply_variant`.

    >>> load_config("digits.py:smoke")
    Traceback (most recent call last):
    optlab.training._config.ConfigError: config 'digits.py' is not a file.
    """
    path, _, variant = spec.partition(":")
    file = pathlib.Path(path)
    if not file.is_file():
        beside = sorted(other.name for other in file.parent.glob("*.py"))
        near = difflib.get_close_matches(file.name, beside, n=1)
        hint = f"; did you mean {file.with_name(near[0])}?" if near else "."
        raise ConfigError(f"config {path!r} is not a file{hint}")
    get_config = runpy.run_path(path).get("get_config")
    config = get_config(variant) if callable(get_config) else None
    if not isinstance(config, kind):
        raise ConfigError(
            f"config {path!r} has no get_config(variant) that gives a {kind.__name__}."
        )
    validate(config)
    return config


def validate(config: RunConfig) -> None:
    """Checks the type and the range of every field.

    Args:
        config: any config.

    Raises:
        ConfigError: at the first wrong field; the message names it.

    >>> validate(TrainConfig(steps=0))
    Traceback (most recent call last):
    optlab.training._config.ConfigError: config.steps must be at least 1, got 0.
    """
    _validate(config, "config")
    config.check()


def _validate(holder: Any, path: str) -> None:
    kinds = typing.get_type_hints(type(holder))
    for field in dataclasses.fields(holder):
        name, value, kind = f"{path}.{field.name}", getattr(holder, field.name), kinds[field.name]
        if not _is_a(value, kind):
            wanted = getattr(kind, "__name__", kind) if not typing.get_args(kind) else kind
            raise ConfigError(f"{name} must be {wanted}, got {value!r}.")
        if dataclasses.is_dataclass(value):
            _validate(value, name)
        minimum = field.metadata.get("at_least")
        if minimum is not None:
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and number < minimum:
                    raise ConfigError(f"{name} must be at least {minimum}, got {value}.")
                limit = 2**63 if isinstance(number, int) else math.inf
                if number is not None and not number < limit:  # nor is a NaN
                    raise ConfigError(f"{name} must be a number below {limit}, got {value}.")
        choices = field.metadata.get("one_of", (value,))
        if value not in choices:
            raise ConfigError(f"{name} must be {' or '.join(choices)}, got {value!r}.")


def _is_a(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return isinstance(value, tuple) and all(_is_a(v, item) for v in value)
    if typing.get_origin(kind) is types.UnionType:
        return any(_is_a(value, option) for option in typing.get_args(kind))
    if isinstance(value, bool):  # an int to Python, not to a reader
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
