import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_report import report

from pipeline.artifacts import AccuracyReport, Place
from pipeline.validate.published import is_published, keep_private, publish, shard_of

__all__ = ["report"]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    made = [tmp_path / "work" / name for name in ("model.onnx", "manifest.json")]
    made[0].parent.mkdir()
    for path in made:
        path.write_text(path.name)
    return {path.name: path for path in made}


def test_files_and_report_appear_together(tmp_path: Path, files: dict[str, Path], report: AccuracyReport) -> None:
    destination = tmp_path / "artifacts" / "model-0.1.0-cpu"
    assert not is_published(destination, files, {"report.json": report})
    publish(destination, files, {"report.json": report}, scratch=tmp_path / "tmp")
    assert {path.name for path in destination.iterdir()} == {"model.onnx", "manifest.json", "report.json"}
    assert json.loads((destination / "report.json").read_text())["lost"] == 5
    assert is_published(destination, files, {"report.json": report})
    assert not list((tmp_path / "tmp").iterdir())


def test_an_earlier_build_is_replaced_whole(tmp_path: Path, files: dict[str, Path], report: AccuracyReport) -> None:
    destination = tmp_path / "artifacts" / "model-0.1.0-cpu"
    publish(destination, files, {"report.json": report}, scratch=tmp_path / "tmp")
    (destination / "left-over").write_text("of an older version")
    publish(
        destination,
        {"model.onnx": files["model.onnx"]},
        {"report.json": replace(report, lost=6)},
        scratch=tmp_path / "tmp",
    )
    assert {path.name for path in destination.iterdir()} == {"model.onnx", "report.json"}
    assert not is_published(destination, {"model.onnx": files["model.onnx"]}, {"report.json": report})


def test_what_a_killed_build_left_in_the_scratch_folder_is_no_hindrance(
    tmp_path: Path, files: dict[str, Path], report: AccuracyReport
) -> None:
    destination = tmp_path / "artifacts" / "model-0.1.0-cpu"
    for leftover in (".new", ".old"):
        (tmp_path / "tmp" / f"{destination.name}{leftover}").mkdir(parents=True)
    publish(destination, files, {"report.json": report}, scratch=tmp_path / "tmp")
    assert is_published(destination, files, {"report.json": report})


def test_a_changed_file_is_noticed(tmp_path: Path, files: dict[str, Path], report: AccuracyReport) -> None:
    destination = tmp_path / "a"
    publish(destination, files, {"report.json": report}, scratch=tmp_path / "tmp")
    (destination / "model.onnx").write_text("another model")
    assert not is_published(destination, files, {"report.json": report})


def test_the_report_alone_can_be_replaced(tmp_path: Path, files: dict[str, Path], report: AccuracyReport) -> None:
    destination = tmp_path / "a"
    publish(destination, files, {"report.json": report}, scratch=tmp_path / "tmp")
    before = (destination / "model.onnx").stat().st_ino
    publish(destination, files, {"report.json": replace(report, place=Place.IMAGE)}, scratch=tmp_path / "tmp")
    assert (destination / "model.onnx").stat().st_ino == before
    assert json.loads((destination / "report.json").read_text())["place"] == "image"


def test_what_lies_in_a_folder_of_its_own_belongs_to_it(
    tmp_path: Path, files: dict[str, Path], report: AccuracyReport
) -> None:
    destination = tmp_path / "a"
    both = files | {"safe/model.onnx": files["model.onnx"]}
    reports = {"report.json": report, "safe/report.json": replace(report, lost=6)}
    publish(destination, both, reports, scratch=tmp_path / "tmp")
    assert (destination / "safe" / "model.onnx").read_text() == "model.onnx"
    assert json.loads((destination / "safe" / "report.json").read_text())["lost"] == 6
    assert is_published(destination, both, reports)
    kept = (destination / "safe" / "model.onnx").stat().st_ino
    confirmed = {name: replace(each, place=Place.IMAGE) for name, each in reports.items()}
    assert not is_published(destination, both, confirmed)
    publish(destination, both, confirmed, scratch=tmp_path / "tmp")
    assert is_published(destination, both, confirmed)
    assert (destination / "safe" / "model.onnx").stat().st_ino == kept
    # A build without it leaves nothing of it.
    assert not is_published(destination, files, {"report.json": report})
    publish(destination, files, {"report.json": report}, scratch=tmp_path / "tmp")
    assert not (destination / "safe").exists()


def test_a_shard_that_shows_people_lies_apart_and_is_found(tmp_path: Path) -> None:
    destination = tmp_path / "artifacts" / "model-0.1.0-cpu"
    destination.mkdir(parents=True)
    shard = tmp_path / "shard.zip"
    shard.write_bytes(b"faces")
    assert shard_of(destination) == destination / "shard.zip"
    keep_private(shard, destination)
    assert not list(destination.iterdir())
    assert shard_of(destination).read_bytes() == b"faces"
    assert shard_of(destination) == tmp_path / "private" / "model-0.1.0-cpu" / "shard.zip"
    shard.write_bytes(b"others")
    keep_private(shard, destination)
    assert shard_of(destination).read_bytes() == b"others"
    (destination / "shard.zip").write_bytes(b"published")
    assert shard_of(destination) == destination / "shard.zip"
