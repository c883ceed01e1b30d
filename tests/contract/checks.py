"""All checks of the contract, in the order in which they are run."""

from tests.contract import containers, numerics, protocol, sharding, wrappers

__all__ = ["CHECKS", "SHARED", "STORED", "label"]

CHECKS = [
    getattr(module, name)
    for module in (protocol, numerics, wrappers, containers, sharding)
    for name in module.__all__
]
# How optax wraps a state and how it is stored: a variant of a method seldom differs from it in
# these, so the quick suite asks them of the method alone.
STORED = [getattr(module, name) for module in (wrappers, containers) for name in module.__all__]

# What a method and its variants share by how they are written, which a variant is not asked either.
SHARED = [
    protocol.check_extra_arguments_ignored,
    protocol.check_one_trace,
    protocol.check_pure,
    numerics.check_empty_tree,
    numerics.check_nested_and_none,
    numerics.check_scalar_tree,
    numerics.check_scan_equals_loop,
    numerics.check_vmap_equals_loop,
    sharding.check_sharding_explicit,
]


def label(check) -> str:
    """Gives the check's name in a test id."""
    return check.__name__.removeprefix("check_")
