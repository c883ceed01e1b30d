"""Rows of ``optlab.transforms.quantized``; bytes are those of large matrices, scales included."""

from optlab.catalog._method import Method

__all__ = ["ROWS"]

_FAMILY = "transforms.quantized"
# The contract's leaves are small; with these blocks they are coded alike on one device and four.
_CODED = {"min_size": 1, "shards": 4}


def _row(
    name: str,
    summary: str,
    papers: tuple[str, ...],
    state_bytes: float,
    config: str | None = None,
    **arguments,
) -> Method:
    return Method(
        name=name,
        family=_FAMILY,
        symbol=f"optlab.transforms.quantized.{name}",
        summary=summary,
        papers=papers,
        arguments={"learning_rate": 1e-2, **arguments},
        variants={"small_leaves": _CODED} if name in _SWEPT else {},
        state_bytes=state_bytes,
        config=config,
        notebook="eight_bit.ipynb" if name in _SHOWN else None,
    )


_SHOWN = ("adamw4bit", "adamw8bit", "lion8bit")  # in the notebook of them all
_SWEPT = ("adamw8bit", "lion8bit", "muon8bit")
_DETTMERS = "dettmers2022blockwise"

ROWS = (
    _row(
        "adagrad8bit",
        "Adagrad, its sum of squares in 8 bits",
        (_DETTMERS,),
        1.016,
        learning_rate=0.5,
    ),
    _row("adam8bit", "Adam, its moments in 8 bits", (_DETTMERS,), 2.031),
    _row("adamw4bit", "AdamW, its moments in 4 bits", ("li2023fourbit",), 1.063),
    _row(
        "adamw8bit",
        "AdamW, its moments in 8 bits",
        (_DETTMERS,),
        2.031,
        config="quantized_adamw8bit_tinyshakespeare.py",
    ),
    _row(
        "adamw_coat", "AdamW, its moments in 8-bit floats of expanded range", ("xi2025coat",), 2.188
    ),
    _row("adamw_fp8", "AdamW, its moments in 8-bit floats", ("peng2023fp8lm",), 2.031),
    _row(
        "ademamix8bit",
        "AdEMAMix, its three moments in 8 bits",
        ("pagliardini2025ademamix", _DETTMERS),
        3.047,
    ),
    _row("lamb8bit", "LAMB, its moments in 8 bits", ("you2020lamb", _DETTMERS), 2.031),
    _row(
        "lars8bit",
        "LARS, its moment in 8 bits",
        ("you2017lars", _DETTMERS),
        1.016,
        learning_rate=0.1,
        trust_coefficient=0.1,
    ),
    _row(
        "lion8bit",
        "Lion, its moment in 8 bits",
        ("chen2023lion", _DETTMERS),
        1.016,
        learning_rate=1e-3,
    ),
    _row(
        "lion_k8bit",
        "Lion-K, its moment in 8 bits",
        ("chen2024lionk", _DETTMERS),
        1.016,
        learning_rate=1e-3,
    ),
    _row(
        "muon8bit",
        "Muon, its moments in 8 bits",
        ("jordan2024muon", _DETTMERS),
        1.016,
        learning_rate=2e-2,
    ),
    _row("rmsprop8bit", "RMSProp, its average of squares in 8 bits", (_DETTMERS,), 1.016),
    _row("sgd8bit", "SGD with momentum in 8 bits", (_DETTMERS,), 1.016),
)
