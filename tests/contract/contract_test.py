"""The contract on every catalog row, each of its variants and three of optax's optimizers."""

import optax
import pytest

from optlab import catalog
from tests.contract.case import Case
from tests.contract.checks import CHECKS, ECHOES, SHARDED, SHARED, label

CONTROLS = [
    Case("optax.adamw", optax.adamw, {"learning_rate": 1e-2}, state_bytes=8.0),
    Case("optax.lion", optax.lion, {"learning_rate": 1e-2}, state_bytes=4.0),
    Case("optax.contrib.muon", optax.contrib.muon, {"learning_rate": 1e-2}, state_bytes=4.0),
]

# Case -> check -> why it fails. The build fails when a failure listed here no longer occurs.
KNOWN_FAILURES = {
    "optax.contrib.muon": {
        "bfloat16": "its Newton-Schulz steps run in bfloat16 and enlarge the errors",
        "sharding_explicit": "it contracts a sharded axis and names no sharding for the product",
        "x64": "its state holds the Newton-Schulz coefficients in the default float dtype",
        "zero_size_leaf": "it divides by a dimension",
    }
}


# Optimizers with quantized states are thin wrappers of one engine: in what they share these two
# stand for all of them, one with leaves large enough to be coded. Variants of a method are held to
# its trajectories by tests of its own.
ENGINE = ("adamw8bit[small_leaves]", "lion_k8bit")


def _shows_nothing_new(case: Case, check) -> bool:
    """Whether another case or check stands for this one: `make test-slow` asks all the same."""
    if check in ECHOES:
        return True
    name, variant, _ = case.label.partition("[")
    kin = any(name == r.name and r.family == "transforms.quantized" for r in catalog.OPTIMIZERS)
    if kin and check in SHARDED:
        return True
    return case.label not in ENGINE and (bool(variant) or (kin and check in SHARED))


def _catalog_cases():
    for row in catalog.OPTIMIZERS:
        for variant, extra in {"": {}, **row.variants}.items():
            name = f"{row.name}[{variant}]" if variant else row.name
            yield Case(name, row.factory(), {**row.arguments, **extra}, row.state_bytes)


def _parameters():
    for case in [*_catalog_cases(), *CONTROLS]:
        reasons = KNOWN_FAILURES.get(case.label, {})
        for check in CHECKS:
            reason = reasons.get(label(check))
            marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
            if _shows_nothing_new(case, check):
                marks.append(pytest.mark.slow)
            yield pytest.param(case, check, id=f"{case.label}-{label(check)}", marks=marks)


@pytest.mark.parametrize(("case", "check"), list(_parameters()))
def test_contract(case, check):
    check(case)


def test_known_failures_name_cases_and_checks():
    cases = {case.label for case in [*_catalog_cases(), *CONTROLS]}
    assert KNOWN_FAILURES.keys() <= cases
    names = {name for reasons in KNOWN_FAILURES.values() for name in reasons}
    assert names <= {label(check) for check in CHECKS}
