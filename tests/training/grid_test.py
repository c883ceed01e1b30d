"""Grids: what they hold, and mistakes in them."""

import pytest

from optlab import training
from optlab.training import ConfigError, OptimizerConfig, Times, TrainConfig
from optlab.training._grid import make_cells, parse_axis

RATE, DECAY = "optimizer.learning_rate", "optimizer.arguments.weight_decay"
ADAMW = TrainConfig(optimizer=OptimizerConfig(learning_rate=2e-3, arguments={"weight_decay": 0.1}))
LION = training.override(ADAMW, {"optimizer.name": "optax.lion", RATE: 2e-4})


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("optimizer.name=adamw, lion", ("optimizer.name", ["adamw", "lion"])),
        ("model.widths=(8, 4),(8,)", ("model.widths", [(8, 4), (8,)])),
        (f"{RATE}=1e-3,x0.3,x1e1", (RATE, [1e-3, Times(0.3), Times(10.0)])),
    ],
)
def test_axes_are_parsed(text, axis):
    assert parse_axis(text) == axis


def test_every_method_has_every_point_and_its_own_rates():
    grid = {RATE: [Times(0.5), Times(1), Times(3)], DECAY: [0, 1]}
    cells = make_cells({"adamw": ADAMW, "lion": LION}, grid, [3, 4])
    assert len(cells) == len({cell.name for cell in cells}) == 2 * 3 * 2 * 2
    rates = {m: sorted({c.values[RATE] for c in cells if c.method == m}) for m in ("adamw", "lion")}
    assert rates == {"adamw": [1e-3, 2e-3, 6e-3], "lion": [1e-4, 2e-4, 6e-4]}
    for cell in cells:
        assert cell.config.optimizer.learning_rate == cell.values[RATE]
        assert cell.config.optimizer.arguments["weight_decay"] == cell.values[DECAY]
    assert ADAMW.optimizer.learning_rate == 2e-3  # as it was


def test_numbers_of_the_optimizer_share_a_program():
    grid = {DECAY: [0, 0.1], "model.widths": [(8,), (4,)], "batch_size": [32, 64]}
    cells = make_cells({"adamw": ADAMW}, grid, [0, 1])
    assert len({cell.kind for cell in cells}) == 4
    assert {tuple(cell.numbers.items()) for cell in cells} == {((DECAY, 0.0),), ((DECAY, 0.1),)}


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"optimizer.lerning_rate": [1.0]}, "has no field 'lerning_rate'; did you mean"),
        ({RATE: []}, f"grid has no values for {RATE}"),
        ({RATE: [-1.0]}, "config.optimizer.learning_rate must be at least 0"),
        ({RATE: [1e-3, Times(0.5)]}, f"grid has a value of {RATE} twice"),
        ({"steps": [5.5]}, "config.steps must be int, got 5.5"),
        ({"seed": [1, 2]}, "grid has an axis of seeds"),
        ({"optimizer.arguments.b1": [Times(2)]}, "grid multiplies optimizer.arguments.b1, which"),
        ({"optimizer.arguments.b11": [0.5]}, "'b11', which adamw does not take; did you mean"),
        ({"optimizer.name": ["adamm"]}, "optimizer.name 'adamm' is unknown; did you mean"),
    ],
)
def test_mistakes_name_the_field(grid, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_cells({"adamw": ADAMW}, grid, [0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_are_some_and_different(seeds):
    with pytest.raises(ConfigError, match="seeds must be some, each once"):
        make_cells({"adamw": ADAMW}, {}, seeds)


@pytest.mark.parametrize("text", ["1e-3", "=1", "a=", "a=1,,2"])
def test_what_is_no_axis(text):
    with pytest.raises(ConfigError, match="grid must be such as"):
        parse_axis(text)
