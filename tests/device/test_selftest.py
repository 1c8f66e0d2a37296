"""The report that an artifact gives of itself on the device, held against the host's."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from tiny_artifact import PREPROCESSING
from tiny_package import GOLDEN, TinyPackage, with_manifest, write_tiny_package
from tiny_shard import COUNT, tiny, write_shard

from pipeline.artifacts import AccuracyReport
from pipeline.cli.subject import open_subject
from pipeline.cli.validate import judge_again
from pipeline.progress import Silent
from pipeline.validate.judge import Terms
from targets.device.errors import SessionError
from targets.device.files import SHARD
from targets.device.gate.run import MeasureError
from targets.device.gate.shard import ShardError
from targets.device.model.cpu import instruction_set
from targets.device.model.golden import FILE, read_golden, write_golden
from targets.device.model.manifest import ManifestError, read_manifest, sha256_of
from targets.device.selftest import selftest

__all__ = ["tiny"]


def report_of_the_host(tiny: TinyPackage, shard: Path) -> AccuracyReport:
    with open_subject(str(tiny.folder), progress=Silent()) as subject:
        return judge_again(subject, shard, terms=Terms(max_drop=50.0, gate_looks=1), progress=Silent())


def test_without_a_shard_the_golden_images_speak(tiny: TinyPackage) -> None:
    report = selftest(tiny.folder, None)
    assert json.loads(json.dumps(report)) == report
    golden = report.pop("golden")
    assert report == {
        "schema": 2,
        "passed": True,
        "name": "tiny",
        "version": "0.1.0",
        "target": "cpu",
        "variant": "main",
        "variant_reason": "int8 sums on this CPU are the same as on the one it was proven on",
        "model_sha256": tiny.manifest.model_sha256,
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "instruction_set": instruction_set(),
    }
    assert (golden["images"], golden["agreement"], golden["max_difference"]) == (GOLDEN, 1.0, 0.0)
    assert "16 golden images match" in golden["reason"]


def test_its_report_is_the_hosts(tiny: TinyPackage, tmp_path: Path) -> None:
    shard = write_shard(tiny, tmp_path / "shard")
    found = selftest(tiny.folder, shard, max_drop=50.0)
    here = asdict(report_of_the_host(tiny, shard))
    gate = found["gate"]
    assert {name: here[name] for name in gate} == gate
    assert set(here) - set(gate) == {
        "target",
        "place",
        "gate_looks",
        "expected_accuracy",
        "artifact_sha256",
        "instruction_set",
        "runtime",
        "groups",
    }
    assert (gate["images"], gate["lost"], gate["won"], gate["verdict"]) == (COUNT, 15, 5, "pass")
    assert found["passed"] is True


def test_a_gate_that_is_not_passed_is_a_failure(tiny: TinyPackage, tmp_path: Path) -> None:
    found = selftest(tiny.folder, write_shard(tiny, tmp_path / "shard"), max_drop=5.0)
    assert found["gate"]["verdict"] == "undecided"
    assert "images" in found["gate"]["advice"] or "More images" in found["gate"]["advice"]
    assert found["passed"] is False


def test_the_shard_beside_the_artifact_gives_the_builds_report(tiny: TinyPackage) -> None:
    found = selftest(tiny.folder, tiny.proof.shard)["gate"]
    assert (found["images"], found["lost"], found["won"]) == (tiny.report.images, tiny.report.lost, tiny.report.won)
    assert found["artifact_top1"] == tiny.report.artifact_top1


def test_golden_images_that_do_not_match_are_a_failure(tiny: TinyPackage) -> None:
    pixels, logits = read_golden(tiny.folder)
    write_golden(tiny.folder, pixels, np.roll(logits, 1, axis=1))
    report = selftest(tiny.folder, tiny.proof.shard)
    assert report["passed"] is False
    assert "16 golden images do not match: 0.0%" in report["golden"]["reason"]
    assert report["gate"]["images"] == COUNT


def test_golden_images_that_cannot_be_compared_leave_no_infinity_in_the_json(tiny: TinyPackage) -> None:
    (tiny.folder / FILE).unlink()
    report = selftest(tiny.folder, None)
    assert report["passed"] is False
    assert report["golden"]["max_difference"] is None
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"classes": ("b", "a", "c", "d")}, id="classes"),
        pytest.param({"preprocessing": replace(PREPROCESSING, color="bgr")}, id="preprocessing"),
    ],
)
def test_the_shard_of_another_model_is_refused(tiny: TinyPackage, tmp_path: Path, changes: dict[str, object]) -> None:
    shard = write_shard(tiny, tmp_path / "shard", **changes)  # type: ignore[arg-type]
    with pytest.raises(ShardError, match=r"was made for other classes .* than the artifact tiny 0\.1\.0"):
        selftest(tiny.folder, shard)


def test_a_shard_without_images_is_refused(tiny: TinyPackage, tmp_path: Path) -> None:
    shard = write_shard(tiny, tmp_path / "shard", count=0)
    with pytest.raises(ShardError, match="contains no images"):
        selftest(tiny.folder, shard)


def test_answers_that_are_no_numbers_are_counted_not_judged(tmp_path: Path) -> None:
    tiny = write_tiny_package(tmp_path / "artifact", quantized=False)
    shard = write_shard(tiny, tmp_path / "shard")
    model = onnx.load(tiny.folder / "model.onnx")
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "fc.bias")
    bias.CopyFrom(numpy_helper.from_array(np.array([0, np.nan, 0, 0], np.float32), bias.name))
    onnx.save(model, tiny.folder / "model.onnx")
    with_manifest(tiny.folder, model_sha256=sha256_of(tiny.folder / "model.onnx"))
    with pytest.raises(MeasureError, match="logits for 120 of 120 images are not finite"):
        selftest(tiny.folder, shard)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), ManifestError),
        (lambda folder: (folder / "model.onnx").write_bytes(b"x"), ManifestError),
        (lambda folder: with_manifest(folder, runtime_version="99.0"), SessionError),
        (lambda folder: (folder / SHARD).write_bytes(b"x"), ShardError),
        (lambda folder: (folder / SHARD).unlink(), ShardError),
    ],
)
def test_files_that_cannot_be_used_are_refused(
    tiny: TinyPackage, damage: Callable[[Path], object], error: type[Exception]
) -> None:
    damage(tiny.folder)
    with pytest.raises(error):
        selftest(tiny.folder, tiny.folder / SHARD)


def test_another_instruction_set_is_named(tiny: TinyPackage) -> None:
    with_manifest(tiny.folder, instruction_set="sse5")
    report = selftest(tiny.folder, None)
    assert report["passed"] is True
    assert read_manifest(tiny.folder).instruction_set in report["golden"]["reason"]
