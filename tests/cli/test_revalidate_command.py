"""`deploy validate`: the gate's report again, from a published artifact or from an image."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper
from tiny_package import CLASSES, Packaged, TinyPackage, colorful, png, with_manifest, write_tiny_package

from pipeline.cli.validate import validate
from pipeline.errors import DataError, GateFailed, GateUndecided
from pipeline.validate.published import report_json
from pipeline.workspace.hashing import sha256_of_file

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    """As `deploy build` publishes it below a workspace."""
    return write_tiny_package(tmp_path / "ws" / "artifacts" / "tiny-0.1.0-cpu")


def validated(name: str, *, workspace: Path, shard: Path | None = None, max_drop: float = 50.0) -> None:
    validate(name, data=None, shard=shard, workspace=workspace, max_drop=max_drop, as_json=True, verbose=False)


def report(capsys: Capture) -> Any:
    return json.loads(capsys.readouterr().out)


def as_json(tiny: TinyPackage) -> Any:
    return json.loads(json.dumps(asdict(tiny.report)))


def test_an_artifact_gives_the_report_of_its_build(tiny: TinyPackage, tmp_path: Path, capsys: Capture) -> None:
    validated(str(tiny.folder), workspace=tmp_path / "unused")
    assert report(capsys) == as_json(tiny)


@pytest.mark.docker
def test_an_image_gives_the_same_report_but_for_the_place(packaged: Packaged, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(packaged.tiny.folder, tmp_path / "artifacts" / "tiny-0.1.0-cpu")
    write_tiny_package(tmp_path / "artifacts" / "another", quantized=False).proof.shard.unlink()
    (tmp_path / "artifacts" / "damaged").mkdir()
    validated(packaged.image.tag, workspace=tmp_path)
    from_image = report(capsys)
    validated(str(packaged.tiny.folder), workspace=tmp_path)
    assert from_image == {**report(capsys), "place": "image"}
    assert from_image["images"] == 120


@pytest.mark.docker
def test_an_image_without_its_shard_says_how_to_name_it(packaged: Packaged, tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(DataError, match=rf"not found in {tmp_path}\. Give it with --shard, or .* --data"):
        validated(packaged.image.tag, workspace=tmp_path)
    validated(packaged.image.tag, workspace=tmp_path, shard=packaged.tiny.proof.shard)
    assert report(capsys)["verdict"] == "pass"


def test_the_looks_of_the_builds_report_are_kept(tiny: TinyPackage, tmp_path: Path, capsys: Capture) -> None:
    (tiny.folder / "report.json").write_text(report_json(replace(tiny.report, gate_looks=7)))
    validated(str(tiny.folder), workspace=tmp_path)
    assert report(capsys)["gate_looks"] == 7


def test_too_few_images_are_undecided_with_an_exit_code_of_their_own(
    tiny: TinyPackage, tmp_path: Path, capsys: Capture
) -> None:
    with pytest.raises(
        GateUndecided, match=r"120 images are too few to decide whether .*tiny-0.1.0-cpu loses more than the 1"
    ):
        validated(str(tiny.folder), workspace=tmp_path, max_drop=1.0)
    assert report(capsys)["verdict"] == "undecided"


def test_an_artifact_that_loses_too_much_fails(tiny: TinyPackage, tmp_path: Path, capsys: Capture) -> None:
    other = write_tiny_package(tmp_path / "other", quantized=False)
    model = other.folder / "model.onnx"
    with pytest.raises(GateFailed, match=r"loses more than the 1 points allowed\. Do not deploy it"):
        validate(
            str(broken(other.folder, model)),
            data=None,
            shard=tiny.proof.shard,
            workspace=tmp_path,
            max_drop=1.0,
            as_json=False,
            verbose=False,
        )
    assert capsys.readouterr().out.startswith("host: fail: top-1 100.00% -> ")


def broken(folder: Path, model: Path) -> Path:
    """An artifact that answers otherwise: its last layer's weights change their sign."""
    loaded = onnx.load(model)
    (weight,) = [each for each in loaded.graph.initializer if each.name == "fc.weight"]
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    onnx.save(loaded, model)
    with_manifest(folder, model_sha256=sha256_of_file(model))
    return folder


def test_other_images_give_accuracy_without_a_verdict(tiny: TinyPackage, tmp_path: Path, capsys: Capture) -> None:
    for name in CLASSES:
        for split, seed in (("train", 1), ("val", 2)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for index, pixels in enumerate(colorful(12, seed=seed + ord(name))):
                (folder / f"{index}.png").write_bytes(png(pixels))
    for as_json in (True, False):
        validate(
            str(tiny.folder),
            data=str(tmp_path / "photos"),
            shard=None,
            workspace=tmp_path,
            max_drop=1.0,
            as_json=as_json,
            verbose=False,
        )
    document, _, text = capsys.readouterr().out.rpartition("host: ")
    found = json.loads(document)
    assert (found["place"], found["images"], found["top5"]) == ("host", 48, None)
    assert 0 < found["top1"] < 1
    assert text.startswith(f"top-1 {found['top1']:.2%} on 48 images of")
    assert "no verdict" in text
