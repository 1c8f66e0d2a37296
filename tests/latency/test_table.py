"""A table as data: written and read, interpolated, refused where it is about something else."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import CompressionError, RecipeError
from pipeline.latency.table import Check, LatencyTable, Pace, Times, read_table

TIMES = Times(
    shapes={"3x3": {(8, 8): (10.0, 1.0), (8, 16): (20.0, 1.0), (16, 8): (30.0, 2.0), (16, 16): (60.0, 2.0)}},
    rest=(5.0, 2.0),
    scale=0.8,
    per_node=0.5,
    checks=(
        Check(widths={"a": 8}, removed=("layer1.1",), predicted_ms=0.95, measured_ms=1.0),
        Check(widths={"a": 16}, removed=(), predicted_ms=1.02, measured_ms=1.0),
    ),
)
TABLE = LatencyTable(
    architecture="resnet8",
    target="cpu",
    machine={"processor": "P", "instruction_set": "avx2"},
    runtime="onnxruntime 1",
    threads=2,
    full={"a": 16},
    grid={"a": (8, 16)},
    layers={"a": "3x3"},
    precisions={"int8": TIMES},
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text(TABLE.to_json())
    assert read_table(tmp_path / "table.json") == TABLE


def test_times_are_scaled_and_nodes_counted() -> None:
    assert TIMES.layer_us("3x3", 16, 8) == pytest.approx(0.8 * 30 + 0.5 * 2)
    assert TIMES.rest_us == pytest.approx(0.8 * 5 + 0.5 * 2)
    assert TIMES.error == pytest.approx(0.05)


def test_between_the_widths_of_the_grid_it_is_interpolated_and_beyond_its_edge_counts() -> None:
    assert TIMES.layer_us("3x3", 12, 8) == pytest.approx(0.8 * 20 + 0.5 * 1.5)
    assert TIMES.layer_us("3x3", 12, 12) == pytest.approx(0.8 * 30 + 0.5 * 1.5)
    assert TIMES.layer_us("3x3", 4, 8) == TIMES.layer_us("3x3", 8, 8)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[]", id="list"),
        pytest.param("{", id="no-json"),
        pytest.param("{}", id="empty"),
        pytest.param(json.dumps({"schema": 99}), id="schema"),
        pytest.param(json.dumps({**json.loads(TABLE.to_json()), "more": 1}), id="unknown-key"),
        pytest.param(TABLE.to_json().replace('"us"', '"ms"'), id="other-units"),
        pytest.param(TABLE.to_json().replace('"us": 10.0', '"us": null'), id="null"),
        pytest.param(TABLE.to_json().replace('"us": 10.0', '"us": NaN'), id="NaN"),
        pytest.param(TABLE.to_json().replace('"us": 10.0', '"us": Infinity'), id="infinity"),
        pytest.param(TABLE.to_json().replace('"us": 10.0', '"us": 1e400'), id="beyond a float"),
        pytest.param(TABLE.to_json().replace('"us": 10.0', '"us": "10.0"'), id="a text for a number"),
        pytest.param(TABLE.to_json().replace('"us": 10.0', '"us": -10.0'), id="below zero"),
        pytest.param(TABLE.to_json().replace('"us": 10.0', '"us": true'), id="true"),
        pytest.param(TABLE.to_json().replace('"in": 8', '"in": 8.5'), id="half a channel"),
        pytest.param(TABLE.to_json().replace('"scale": 0.8', '"scale": 0.0'), id="no scale"),
        pytest.param(TABLE.to_json().replace('"scale": 0.8', '"scale": NaN'), id="scale NaN"),
        pytest.param(TABLE.to_json().replace('"measured_ms": 1.0', '"measured_ms": 0'), id="measured nothing"),
        pytest.param(TABLE.to_json().replace('"threads": 2', '"threads": "2"'), id="threads as text"),
        pytest.param(TABLE.to_json().replace('"a": "3x3"', '"a": "5x5"'), id="a layer without times"),
        pytest.param(TABLE.to_json().replace('"target": "cpu"', f'"target": {"[" * 5000}{"]" * 5000}'), id="depth"),
        pytest.param("[" * 100_000 + "]" * 100_000, id="more depth"),
        pytest.param('{"schema": ' + "[" * 900 + "]" * 900 + "}", id="depth of the schema"),
        pytest.param("\ud800", id="half a character"),
    ],
)
def test_what_is_no_table_is_refused_by_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RecipeError, match=r"mine\.json is not a latency table of this version") as caught:
        read_table(path)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_a_file_of_any_size_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "mine.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(RecipeError, match="more than 64 MiB"):
        read_table(tmp_path / "mine.json")


def test_a_missing_table_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot be read: No such file.*deploy profile"):
        read_table(tmp_path / "none.json")


def test_a_table_about_something_else_is_refused() -> None:
    pace = Pace(table=TABLE, precision="int8", target="cpu", source="t.json")
    pace.check({"a": 16})
    with pytest.raises(CompressionError, match=r"t\.json is for the target cpu, not for cpu-arm64"):
        replace(pace, target="cpu-arm64").check({"a": 16})
    with pytest.raises(CompressionError, match=r"t\.json is for another network \(resnet8\)"):
        pace.check({"a": 24})
    with pytest.raises(CompressionError, match=r"t\.json has no times in fp32, only in int8"):
        replace(pace, precision="fp32").check({"a": 16})
