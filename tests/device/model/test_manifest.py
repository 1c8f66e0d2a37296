import json
from pathlib import Path
from typing import Any

import pytest
from tiny_artifact import manifest_of, write_tiny_artifact

from targets.device.model.manifest import FILE, ManifestError, read_manifest


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = write_tiny_artifact(tmp_path / "artifact")
    assert read_manifest(tmp_path / "artifact") == written
    assert written.input_shape == (3, 8, 8)
    assert isinstance(read_manifest(tmp_path / "artifact").preprocessing, type(written.preprocessing))


def test_equal_manifests_are_equal_bytes(tmp_path: Path) -> None:
    one, two = write_tiny_artifact(tmp_path / "one"), write_tiny_artifact(tmp_path / "two")
    assert one.to_json() == two.to_json()
    assert (tmp_path / "one" / FILE).read_bytes() == (tmp_path / "two" / FILE).read_bytes()


def test_class_names_of_any_language_survive(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, "0" * 64, classes=("grün", "猫", 'quo"te', "d"))
    manifest.write(tmp_path)
    assert read_manifest(tmp_path).classes == manifest.classes


def test_another_schema_is_refused(tmp_path: Path) -> None:
    change(tmp_path, schema=2)
    with pytest.raises(ManifestError, match="has schema 2, but this version supports schema 1"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"surplus": 1}, "unknown or missing entries: surplus", id="surplus"),
        pytest.param({"input_shape": [3, 8]}, "invalid value", id="shape"),
        pytest.param({"classes": 5}, "invalid value", id="classes"),
        pytest.param({"preprocessing": {"resize": 1}}, "invalid value", id="preprocessing"),
        pytest.param({"tolerance": "much"}, "invalid value", id="tolerance"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    change(tmp_path, **changes)
    with pytest.raises(ManifestError, match=said):
        read_manifest(tmp_path)


def test_a_missing_entry_is_named(tmp_path: Path) -> None:
    write_tiny_artifact(tmp_path)
    raw = json.loads((tmp_path / FILE).read_text())
    del raw["tolerance"]
    (tmp_path / FILE).write_text(json.dumps(raw))
    with pytest.raises(ManifestError, match="missing entries: tolerance"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\xff"])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_a_folder_without_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="is not an artifact"):
        read_manifest(tmp_path)


def test_a_changed_model_is_refused(tmp_path: Path) -> None:
    manifest = write_tiny_artifact(tmp_path)
    assert manifest.model_path(tmp_path) == tmp_path / "model.onnx"
    with (tmp_path / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ManifestError, match="is not the model its manifest describes"):
        manifest.model_path(tmp_path)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    manifest = write_tiny_artifact(tmp_path)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(ManifestError, match=r"has no model file model\.onnx"):
        manifest.model_path(tmp_path)


def change(folder: Path, **changes: Any) -> None:
    write_tiny_artifact(folder)
    raw = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps({**raw, **changes}))
