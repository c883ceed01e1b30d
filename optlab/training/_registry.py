"""Optimizers and learning-rate schedules by name."""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import optax
import optax.contrib

import optlab.transforms
from optlab.training._config import ConfigError, OptimizerConfig, nearest

__all__ = ["configured_optimizer", "make_optimizer", "make_schedule", "optimizers"]


def _rate_parameter(factory: Callable) -> str | None:
    names = inspect.signature(factory).parameters
    return next((name for name in names if name.endswith("learning_rate")), None)


def _is_optimizer(name: str, value: Any) -> bool:
    """Whether a public name is a function that takes a learning rate and gives a transformation."""
    if name.startswith(("_", "scale_by_")) or not inspect.isfunction(value):
        return False
    result = inspect.signature(value).return_annotation  # optax leaves some of them out
    gives_one = result is inspect.Signature.empty or "Transformation" in str(result)
    return gives_one and _rate_parameter(value) is not None


@functools.cache
def optimizers() -> Mapping[str, Callable]:
    """Gives every optimizer that a config can name.

    Returns:
        Factories by name, such as ``lion``: optlab's, else optax's, else optax.contrib's. Where two
        have the same name, ``optax.signum`` and ``optlab.signum`` tell them apart.

    >>> {"adamw", "muon", "lion_k", "optax.signum"} <= set(optimizers())
    True
    """
    families = [
        importlib.import_module(f"optlab.transforms.{module.name}")
        for module in pkgutil.iter_modules(optlab.transforms.__path__)
        if not module.name.startswith("_")
    ]
    found = {}
    for prefix, module in [
        ("optax.contrib", optax.contrib),
        ("optax", optax),
        *(("optlab", family) for family in families),
    ]:
        for name, value in vars(module).items():
            if _is_optimizer(name, value):
                found[name] = found[f"{prefix}.{name}"] = value
    return found


def make_optimizer(
    name: str, learning_rate: optax.ScalarOrSchedule, /, **arguments: Any
) -> optax.GradientTransformation:
    """Builds an optimizer of optax, optax.contrib, optlab or of the user's own by name.

    Args:
        name: a key of :func:`optimizers`, or ``module:factory`` of a module that can be imported.
        learning_rate: step size, or a schedule of the step count.
        **arguments: the factory's further keyword arguments.

    Returns:
        The optimizer.

    Raises:
        ConfigError: if the name or an argument is unknown, or the factory refuses a value; it is a
            ValueError that offers the nearest names.

    >>> tx = make_optimizer("adamw", 1e-3, weight_decay=0.1)
    >>> make_optimizer("lion", 1e-3, weight_decai=0.1)
    Traceback (most recent call last):
    optlab.training._config.ConfigError: optimizer.arguments has 'weight_decai', which lion does
    not take; did you mean weight_decay?
    """
    factory = _factory(name)
    rate = _rate_parameter(factory)
    parameters = inspect.signature(factory).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = {key for key, p in parameters.items() if p.kind is not p.VAR_KEYWORD} - {rate}
    for argument in arguments:
        if argument not in known and not (takes_any and argument != rate):
            raise ConfigError(
                f"optimizer.arguments has {argument!r}, which {name} does not take; "
                f"{nearest(argument, known)}"
            )
    needed = {key for key in known if parameters[key].default is inspect.Parameter.empty}
    if missing := needed - arguments.keys():
        raise ConfigError(f"optimizer.arguments lacks {', '.join(sorted(missing))} of {name}.")
    try:
        return factory(**{rate: learning_rate}, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer.arguments do not suit {name}: {error}") from error


def configured_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Builds the optimizer of a run, whole.

    Args:
        config: of the optimizer.
        steps: updates in all, see :func:`make_schedule`.

    Returns:
        The optimizer.

    Raises:
        ConfigError: see :func:`make_optimizer` and :func:`make_schedule`.

    >>> tx = configured_optimizer(OptimizerConfig(name="lion", learning_rate=1e-4), 100)
    """
    return make_optimizer(config.name, make_schedule(config, steps), **config.arguments)


def _factory(name: str) -> Callable:
    module, imports, attribute = name.partition(":")
    if imports:
        try:
            factory = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"optimizer.name {name!r} cannot be imported: {error}") from error
        if not callable(factory) or _rate_parameter(factory) is None:
            raise ConfigError(f"optimizer.name {name!r} is no function of a learning_rate.")
        return factory
    if name not in optimizers():
        qualified = "." in name
        names = [other for other in optimizers() if ("." in other) == qualified]
        raise ConfigError(f"optimizer.name {name!r} is unknown; {nearest(name, names)}")
    return optimizers()[name]


def make_schedule(config: OptimizerConfig, steps: int) -> optax.ScalarOrSchedule:
    """Builds the learning rate of a run.

    Args:
        config: its ``learning_rate``, ``schedule`` and ``warmup_steps`` are used.
        steps: updates in all, warm-up included.

    Returns:
        A function of the step count; a float if it is constant, as some optimizers want one.

    Raises:
        ConfigError: if the schedule is unknown.

    >>> schedule = make_schedule(OptimizerConfig(learning_rate=1.0, warmup_steps=10), 110)
    >>> [round(float(schedule(t)), 3) for t in (0, 10, 60, 110)]
    [0.0, 1.0, 0.5, 0.0]
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    decay_steps = max(steps - warmup, 1)
    decays = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, decay_steps),
        "linear": optax.linear_schedule(peak, 0.0, decay_steps),
    }
    if config.schedule not in decays:
        raise ConfigError(
            f"optimizer.schedule {config.schedule!r} is unknown; {nearest(config.schedule, decays)}"
        )
    if warmup:
        growth = optax.linear_schedule(0.0, peak, warmup)
        return optax.join_schedules([growth, decays[config.schedule]], [warmup])
    return peak if config.schedule == "constant" else decays[config.schedule]
