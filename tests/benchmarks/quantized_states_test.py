"""The benchmark of quantized states: what it tells, at a size that costs nothing."""

import sys

import pytest

from benchmarks import quantized_states
from benchmarks.quantized_states import measure, table

PEER = """
import json, sys
print("a line of the library's own")
about = {"versions": {"torch": " ".join(sys.argv[1:])}, "state_bytes": {"torch AdamW": 65536}}
print(json.dumps(about), flush=True)
for line in sys.stdin:
    print(json.dumps({"cpu": 1e-3, "wall": 2e-3}), flush=True)
"""


def test_every_method_is_timed_beside_the_peers(tmp_path, monkeypatch):
    script = tmp_path / "_torch_peers.py"
    script.write_text(PEER)
    monkeypatch.setattr(quantized_states, "__file__", str(tmp_path / "quantized_states.py"))
    chosen = {n: quantized_states.methods()[n] for n in ("optax.adamw", "adamw8bit")}
    monkeypatch.setattr(quantized_states, "methods", lambda: chosen)
    peers = quantized_states.Peers(sys.executable, 8192, 2, 3)
    result = measure(8192, 2, 2, 3, peers, bandwidth=1.0)
    peers.process.kill()
    for pipe in (peers.process.stdin, peers.process.stdout):
        pipe.close()
    peers.process.wait()
    rows = result["rows"]
    assert rows.keys() == {*chosen, "torch AdamW"}
    assert rows["optax.adamw"]["state"] == pytest.approx(8.0, abs=0.01)
    assert 2.0 < rows["adamw8bit"]["state"] < 2.2
    assert rows["torch AdamW"]["cpu_ns"] == pytest.approx(1e6 / 8192)
    assert rows["torch AdamW"]["bandwidth_share"] == pytest.approx((12 + 16) * 8192 / 2e6)
    text = table(result)
    row = next(line for line in text.splitlines() if "torch AdamW" in line)
    assert row.startswith("| `torch AdamW` | 122.07 |")
    assert f"| 244.14 | {rows['torch AdamW']['wall_ratio']:.2f} | 8.00 | 11% |" in row
    assert "torch 8192 2 3 cpu" in text  # parameters, leaves, steps in a row, and the device
    assert "every method takes 3 steps" in text
    assert "bandwidth" not in table(result | {"bandwidth": None})


@pytest.mark.parametrize(
    ("argument", "message"),
    [("parameters=1", "unrecognized arguments"), ("--leaves=0", "--parameters must be at least")],
)
def test_wrong_flags_are_told(argument, message, capsys):
    with pytest.raises(SystemExit) as stop:
        quantized_states.main([argument])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
