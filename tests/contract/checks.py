"""All checks of the contract, in the order in which they are run."""

from tests.contract import containers, numerics, protocol, sharding, wrappers

__all__ = ["CHECKS", "ECHOES", "SHARDED", "SHARED", "label"]

CHECKS = [
    getattr(module, name)
    for module in (protocol, numerics, wrappers, containers, sharding)
    for name in module.__all__
]
# What optimizers of one engine share by how they are written: how optax wraps their states, how
# these are stored, and the rest of this list.
SHARED = [
    *(getattr(module, name) for module in (wrappers, containers) for name in module.__all__),
    protocol.check_extra_arguments_ignored,
    protocol.check_one_trace,
    protocol.check_pure,
    numerics.check_empty_tree,
    numerics.check_nested_and_none,
    numerics.check_scalar_tree,
    numerics.check_scan_equals_loop,
    numerics.check_vmap_equals_loop,
]
# What tests/transforms/quantized/sharding_test.py asks of their engine.
SHARDED = [sharding.check_sharding_auto, sharding.check_sharding_explicit]
# What other checks ask of an optimizer: partition is made of masks, apply_if_finite chooses between
# states too, every tree here has the vector that flatten makes, and convergence is that of a scan.
ECHOES = [
    numerics.check_scan_equals_loop,
    wrappers.check_conditionally_transform,
    wrappers.check_flatten,
    wrappers.check_lookahead,
    wrappers.check_masked,
]


def label(check) -> str:
    """Gives the check's name in a test id."""
    return check.__name__.removeprefix("check_")
