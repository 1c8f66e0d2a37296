"""The facts beside exported files: what is written is read, damage is an error with a cure."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_onnx import write_float, write_int8

from pipeline.artifacts import Dialect, OnnxModel
from pipeline.errors import WorkspaceError
from pipeline.export.result import EXPORTED, read_export, write_export


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_export(models(tmp_path), tmp_path)
    return tmp_path


def models(folder: Path) -> list[OnnxModel]:
    return [write_float(folder / "float.onnx"), write_int8(folder / "onnxruntime.onnx")]


def test_what_is_written_is_read(folder: Path) -> None:
    assert read_export(folder) == {model.dialect: model for model in models(folder)}
    assert list(read_export(folder)) == [Dialect.FLOAT, Dialect.ONNXRUNTIME]


def test_the_folder_can_be_moved(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "export"
    shutil.move(folder, elsewhere)
    assert str(folder) not in (elsewhere / EXPORTED).read_text()
    assert read_export(elsewhere)[Dialect.FLOAT].path == elsewhere / "float.onnx"
    assert read_export(elsewhere)[Dialect.FLOAT].path.exists()


def without(key: str) -> str:
    return json.dumps({"schema": 1, "models": [{"path": "float.onnx", "dialect": key}]})


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param('{"schema": 1, "mod', id="cut short"),
        pytest.param("[]", id="a list"),
        pytest.param("null", id="nothing"),
        pytest.param('{"schema": 1}', id="no models"),
        pytest.param('{"schema": 1, "models": 3}', id="models of another kind"),
        pytest.param('{"schema": 1, "models": ["float"]}', id="a model of another kind"),
        pytest.param(without("float"), id="facts missing"),
        pytest.param(without("fortran"), id="an unknown dialect"),
        pytest.param("\udcff", id="not text"),
    ],
)
def test_damage_is_an_error_that_says_what_to_do(text: str, folder: Path) -> None:
    (folder / EXPORTED).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(WorkspaceError, match=r"is damaged \(.*Remove it and run again") as caught:
        read_export(folder)
    assert str(folder) in str(caught.value)
    assert caught.value.exit_code == 14


def test_unknown_figures_are_damage_too(folder: Path) -> None:
    raw = json.loads((folder / EXPORTED).read_text())
    raw["models"][0]["parity"]["surprise"] = 1
    (folder / EXPORTED).write_text(json.dumps(raw))
    with pytest.raises(WorkspaceError, match="surprise"):
        read_export(folder)


def test_a_missing_file_is_damage_too(folder: Path) -> None:
    (folder / EXPORTED).unlink()
    with pytest.raises(WorkspaceError, match="is damaged"):
        read_export(folder)
