import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tiny_artifact import write_tiny_artifact

from targets.device.gate.report import FILE, ProofError, read_proof
from targets.device.model.manifest import Manifest

REPORT: dict[str, Any] = {
    "advice": "",
    "artifact_top1": 0.985,
    "drop_bounds_points": [0.1, 0.98],
    "drop_interval_points": [-0.25, 1.1],
    "drop_points": 0.5,
    "flip_rate": 0.01,
    "float_top1": 0.99,
    "images": 800,
    "instruction_set": "avx2",
    "max_drop_points": 1,
    "place": "host",
    "runtime": "onnxruntime 1.32.0",
    "shard_sha256": "5" * 64,
    "verdict": "pass",
    "worst_class": "<b>猫</b>",
    "worst_class_drop_points": -2.0,
}


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_tiny_artifact(tmp_path)


def write(folder: Path, manifest: Manifest, **changes: Any) -> None:
    raw = {**REPORT, "artifact_sha256": manifest.model_sha256, **changes}
    (folder / FILE).write_text(json.dumps(raw, ensure_ascii=False), encoding="utf-8")


def test_a_report_is_read_as_far_as_a_device_tells_of_it(tmp_path: Path, manifest: Manifest) -> None:
    write(tmp_path, manifest)
    proof = read_proof(tmp_path, manifest)
    assert proof is not None
    known = {name: value for name, value in REPORT.items() if name not in ("advice", "drop_bounds_points")}
    assert json.loads(json.dumps(asdict(proof))) == {
        **known,
        "artifact_sha256": manifest.model_sha256,
        "gate_looks": None,
    }
    write(tmp_path, manifest, gate_looks=3)
    seen = read_proof(tmp_path, manifest)
    assert seen is not None
    assert seen.gate_looks == 3
    assert proof.drop_interval_points == (-0.25, 1.1)


@pytest.mark.parametrize("verdict", ["pass", "fail", "undecided"])
def test_every_verdict_is_told(tmp_path: Path, manifest: Manifest, verdict: str) -> None:
    write(tmp_path, manifest, verdict=verdict)
    proof = read_proof(tmp_path, manifest)
    assert proof is not None
    assert proof.verdict == verdict


def test_an_image_without_report_has_no_proof(tmp_path: Path, manifest: Manifest) -> None:
    assert read_proof(tmp_path, manifest) is None


def test_a_report_of_another_model_is_refused(tmp_path: Path, manifest: Manifest) -> None:
    write(tmp_path, manifest, artifact_sha256="0" * 64)
    with pytest.raises(ProofError, match=rf"about the model 0{{16}}\.\.\., .* {manifest.model_sha256[:16]}.*again"):
        read_proof(tmp_path, manifest)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"pass"', "\x00\xff", "[" * 100_000], ids=lambda text: repr(text[:6])
)
def test_a_damaged_file_is_refused(tmp_path: Path, manifest: Manifest, text: str) -> None:
    (tmp_path / FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(ProofError, match=r"report\.json (cannot be read: .+|is not a JSON object)\. Build the image"):
        read_proof(tmp_path, manifest)


def test_a_folder_in_its_place_is_no_report(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(ProofError, match="cannot be read"):
        read_proof(tmp_path, manifest)


def test_a_missing_entry_is_named(tmp_path: Path, manifest: Manifest) -> None:
    for name in (*(set(REPORT) - {"advice", "drop_bounds_points"}), "artifact_sha256"):
        write(tmp_path, manifest)
        raw = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
        del raw[name]
        (tmp_path / FILE).write_text(json.dumps(raw))
        with pytest.raises(ProofError, match=rf"has no entry {name}\. Build"):
            read_proof(tmp_path, manifest)


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": "passed"},
        {"verdict": ["pass"]},
        {"place": None},
        {"images": 0},
        {"images": 800.0},
        {"images": True},
        {"float_top1": 1.01},
        {"artifact_top1": "0.985"},
        {"flip_rate": -0.1},
        {"flip_rate": True},
        {"drop_points": float("nan")},
        {"drop_points": 10**400},
        {"max_drop_points": float("inf")},
        {"drop_interval_points": [1.1]},
        {"drop_interval_points": [1.1, -0.25]},
        {"drop_interval_points": [None, 1.1]},
        {"drop_interval_points": {"0": 1, "1": 2}},
        {"worst_class": 3},
        {"worst_class_drop_points": None},
        {"artifact_sha256": 7},
    ],
    ids=lambda changes: repr(changes)[:40],
)
def test_a_wrong_value_is_named(tmp_path: Path, manifest: Manifest, changes: dict[str, Any]) -> None:
    write(tmp_path, manifest, **changes)
    with pytest.raises(ProofError, match=rf"has an invalid value: {next(iter(changes))} is "):
        read_proof(tmp_path, manifest)
