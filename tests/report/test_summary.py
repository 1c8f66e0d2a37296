"""The document of `--json` and the table: all that the issue names, whatever happened to a target."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from whole_report import REPORT

from pipeline.artifacts import (
    Artifact,
    Audit,
    Candidate,
    Cost,
    GroupAccuracy,
    Image,
    Latency,
    Place,
    Precision,
    Role,
    Verdict,
)
from pipeline.errors import CheckpointError, CompileError, DataError, GateFailed, GateUndecided
from pipeline.outcome import Outcome
from pipeline.report.document import Document, TargetSummary, document, summary_schema
from pipeline.report.table import table_header, table_rows
from pipeline.results import Judged
from pipeline.workspace.store import Folder
from targets.device.model.manifest import Manifest
from targets.device.model.preprocess import Preprocessing
from targets.target import find_target

PROMISED = {
    "target",
    "verdict",
    "place",
    "float_top1",
    "artifact_top1",
    "drop_points",
    "drop_interval_points",
    "images",
    "flip_rate",
    "float_latency_ms",
    "artifact_latency_ms",
    "artifact_bytes",
    "macs_before",
    "macs_after",
    "params_before",
    "params_after",
    "int8_nodes",
    "float_nodes",
    "image",
}


def latency(cpu_ms: float) -> Latency:
    return Latency(cpu_ms=cpu_ms, wall_ms=cpu_ms * 2, wall_p90_ms=cpu_ms * 3, threads=1, runs=100)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"x" * 320_000)
    Manifest(
        schema=1,
        name="model",
        version="0.1.0",
        target="cpu",
        runtime="onnxruntime",
        runtime_version="1.22.0",
        model_file="model.onnx",
        model_sha256="a" * 64,
        precision="int8",
        weight_bits=7,
        input_shape=(3, 32, 32),
        classes=("cat", "dog"),
        preprocessing=Preprocessing(resize=None, crop=None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        session_options={},
        instruction_set="avx2",
        tolerance=1e-4,
    ).write(folder)
    candidate = Candidate(
        precision=Precision.INT8,
        folder=folder,
        latency=latency(0.5),
        audit=Audit(int8_nodes=22, float_nodes=1),
        selection_top1=0.91,
        selection_drop_points=0.2,
    )
    return Artifact(
        folder=folder,
        target="cpu",
        precision=Precision.INT8,
        reason="int8 is the fastest",
        candidate=candidate,
        float_latency=latency(1.25),
        place=Place.HOST,
        measured_by="linux/amd64",
    )


@pytest.fixture
def finished(artifact: Artifact) -> Outcome:
    return Outcome(
        target=find_target("cpu"),
        before=Cost(parameters=272_474, macs=40_800_000, weight_bytes=1_089_896),
        after=Cost(parameters=200_000, macs=28_560_000, weight_bytes=800_000),
        artifact=artifact,
        report=REPORT,
        image=Image(tag="model:0.1.0-cpu", id="sha256:abc", bytes=180_000_000, platform="linux/amd64"),
        published=Path(".deploy/artifacts/model-0.1.0-cpu"),
        stage_seconds={"load": 1.5, "prune": 2.0},
    )


def parsed(*outcomes: Outcome) -> list[dict[str, object]]:
    raw = json.loads(document(outcomes, error=None))
    targets: list[dict[str, object]] = raw["targets"]
    return targets


def test_every_promised_field_holds_its_fact(finished: Outcome) -> None:
    (target,) = parsed(finished)
    assert target.keys() > PROMISED
    expected = {
        "target": "cpu",
        "exit_code": 0,
        "error": None,
        "verdict": "pass",
        "place": "image",
        "float_top1": 776 / 846,
        "artifact_top1": 774 / 846,
        "drop_points": 200 / 846,
        "drop_interval_points": [-0.3, 0.8],
        "images": 846,
        "flip_rate": 5 / 846,
        "float_latency_ms": 1.25,
        "artifact_latency_ms": 0.5,
        "latency_ratio": 0.4,
        "float_wall_ms": 2.5,
        "artifact_wall_ms": 1.0,
        "threads": 1,
        "artifact_bytes": 320_000,
        "float_bytes": 1_089_896,
        "macs_before": 40_800_000,
        "macs_after": 28_560_000,
        "params_before": 272_474,
        "params_after": 200_000,
        "int8_nodes": 22,
        "float_nodes": 1,
        "image": {"tag": "model:0.1.0-cpu", "id": "sha256:abc", "bytes": 180_000_000},
        "precision": "int8",
        "reason": "int8 is the fastest",
        "advice": None,
        "gate_looks": 2,
        "instruction_set": "avx2",
        "artifact": ".deploy/artifacts/model-0.1.0-cpu",
        "report": ".deploy/artifacts/model-0.1.0-cpu/report.json",
        "seconds": 3.5,
    }
    assert {name: target[name] for name in expected} == expected


def test_a_failed_gate_keeps_its_figures(finished: Outcome) -> None:
    finished.report = replace(REPORT, verdict=Verdict.FAIL)
    finished.image = None
    finished.error = GateFailed("fail: …")
    (target,) = parsed(finished)
    assert (target["verdict"], target["exit_code"], target["image"]) == ("fail", 10, None)
    assert target["error"] == "fail: …"
    assert target["drop_points"] == 200 / 846


def test_a_target_that_stopped_early_is_null_where_nothing_is_known(finished: Outcome) -> None:
    stopped = Outcome(target=replace(find_target("cpu"), name="board"), error=CompileError("no kernel"))
    first, second = parsed(finished, stopped)
    assert first["verdict"] == "pass"
    assert (second["target"], second["exit_code"], second["error"]) == ("board", 9, "no kernel")
    known = {"target", "exit_code", "error", "seconds", "stage_seconds"}
    assert {name for name, value in second.items() if value is not None} == known
    assert second.keys() == first.keys()


def test_an_artifact_whose_manifest_is_gone_still_gives_a_document(finished: Outcome) -> None:
    assert finished.artifact is not None
    finished.artifact.manifest.unlink()
    finished.error = CompileError("no artifact")
    (target,) = parsed(finished)
    assert target["artifact_bytes"] is None
    assert target["artifact_latency_ms"] == 0.5


def test_the_documents_exit_code_is_that_of_the_process(finished: Outcome) -> None:
    failed = Outcome(target=find_target("cpu"), error=GateUndecided("few"))
    worse = Outcome(target=find_target("cpu"), error=CheckpointError("no weights"))
    codes = [
        json.loads(document(each, error=None))["exit_code"]
        for each in ([finished], [finished, failed], [failed, worse])
    ]
    assert codes == [0, 11, 4]


def test_an_error_before_any_target_is_in_the_document() -> None:
    read = Document.model_validate_json(document([], error=DataError("no images")))
    assert (read.exit_code, read.error, read.targets) == (5, "no images", [])


def test_the_document_is_what_its_schema_says(finished: Outcome) -> None:
    schema = json.loads(json.dumps(summary_schema()))
    text = document([finished, Outcome(target=find_target("cpu"))], error=None)
    assert Document.model_validate_json(text).model_dump_json(indent=2) == text
    raw = json.loads(text)
    assert set(schema["required"]) == set(schema["properties"]) == set(raw)
    of_target = schema["$defs"]["TargetSummary"]
    assert of_target["additionalProperties"] is False
    assert set(of_target["required"]) == set(of_target["properties"])
    for target in raw["targets"]:
        assert set(target) == set(of_target["properties"])
        for name, value in target.items():
            options = of_target["properties"][name].get("anyOf", [of_target["properties"][name]])
            assert any(allows(option, value, schema["$defs"]) for option in options), name


def allows(option: dict[str, Any], value: object, definitions: dict[str, dict[str, Any]]) -> bool:
    """Whether one schema without alternatives allows the value, by its JSON type."""
    if "$ref" in option:
        option = definitions[option["$ref"].rpartition("/")[2]]
    if "enum" in option and value not in option["enum"]:
        return False
    kinds: dict[str, type | tuple[type, ...]] = {
        "null": type(None),
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
        "array": list,
        "object": dict,
    }
    return isinstance(value, kinds[option["type"]])


def test_promised_fields_are_in_the_schema() -> None:
    assert set(TargetSummary.model_fields) > PROMISED


def test_the_table_shows_before_and_after(finished: Outcome) -> None:
    rows = table_rows([finished])
    assert {len(row) for row in rows} == {len(table_header())}
    assert rows[0][0] == "cpu"
    assert {row[0] for row in rows[1:]} == {""}
    figures = {row[1]: row[2:] for row in rows}
    assert figures == {
        "verdict": ("", "pass", "upper bound +0.70, 1 allowed"),
        "top-1": ("91.73 %", "91.49 %", "drop +0.24 points, 95 % [-0.30, +0.80]"),
        "predictions": ("", "0.59 % changed", "on 846 images"),
        "latency": ("1.250 ms", "0.500 ms", "x 0.40"),
        "size": ("1.09 MB", "0.32 MB", "x 0.29"),
        "MACs": ("40.80 M", "28.56 M", "x 0.70"),
        "parameters": ("0.27 M", "0.20 M", "x 0.73"),
        "image": ("", "180.00 MB", "model:0.1.0-cpu"),
    }


def test_the_table_names_what_stopped_a_target(finished: Outcome) -> None:
    finished.report = replace(REPORT, verdict=Verdict.FAIL, float_top5=0.99, artifact_top5=0.98)
    finished.error = GateFailed("fail: …")
    stopped = Outcome(
        target=replace(find_target("cpu"), name="board"),
        error=CompileError("no kernel"),
        before=Cost(parameters=1, macs=2, weight_bytes=3),
    )
    rows = table_rows([finished, stopped])
    assert rows[0] == ("cpu", "verdict", "", "fail", "lower bound -0.20, 1 allowed; exit code 10")
    assert ("", "top-5", "99.00 %", "98.00 %", "") in rows
    assert rows[-1] == ("board", "stopped", "", "", "exit code 9")


def test_a_latency_of_another_machine_is_never_shown_as_the_devices(finished: Outcome) -> None:
    assert [parsed(finished)[0][name] for name in ("timed_on", "timed_on_target")] == ["linux/amd64", True]
    assert finished.artifact is not None
    finished.target = find_target("cpu-arm64")
    finished.artifact = replace(finished.artifact, place=Place.EMULATED)
    (target,) = parsed(finished)
    assert (target["timed_on"], target["timed_on_target"]) == ("linux/amd64", False)
    (row,) = [row for row in table_rows([finished]) if row[1] == "latency"]
    assert row[-1] == "x 0.40, timed on linux/amd64, not the target"


def test_the_variant_has_figures_of_its_own(finished: Outcome) -> None:
    assert parsed(finished)[0]["saturation_safe"] is None
    assert finished.artifact is not None
    candidate = replace(finished.artifact.candidate, latency=latency(0.6))
    safe = replace(finished.artifact, candidate=candidate, float_latency=latency(1.2), role=Role.SATURATION_SAFE)
    report = replace(REPORT, artifact_top1=773 / 846, drop_points=300 / 846, place=Place.IMAGE)
    folder = Folder(path=Path("none"), digest="0", seconds=0.0, was_cached=True)
    finished.variants = (Judged(artifact=safe, answers=folder, report=report),)
    assert parsed(finished)[0]["saturation_safe"] == {
        "verdict": "pass",
        "place": "image",
        "artifact_top1": 773 / 846,
        "drop_points": 300 / 846,
        "drop_interval_points": [-0.3, 0.8],
        "drop_bounds_points": [-0.2, 0.7],
        "advice": None,
        "artifact_latency_ms": 0.6,
        "latency_ratio": 0.5,
        "artifact_bytes": 320_000,
        "report": ".deploy/artifacts/model-0.1.0-cpu/saturation_safe/report.json",
    }
    (row,) = [row for row in table_rows([finished]) if row[1] == "7-bit variant"]
    assert row[2:] == ("", "91.37 %", "pass: drop +0.35 points, 95 % [-0.30, +0.80], x 0.50")


def test_groups_are_in_the_document_and_in_the_table(finished: Outcome) -> None:
    assert parsed(finished)[0]["groups"] is None
    group = GroupAccuracy(
        name="face 8-15 px",
        images=156,
        float_share=0.75,
        float_interval=(0.676, 0.811),
        artifact_share=0.5,
        artifact_interval=(0.4224, 0.5776),
    )
    finished.report = replace(REPORT, groups=(group,))
    assert parsed(finished)[0]["groups"] == [json.loads(json.dumps(vars(group)))]
    (row,) = [row for row in table_rows([finished]) if row[1] == "face 8-15 px"]
    assert row[2:] == ("75.00 %", "50.00 %", "156 images, 95 % [67.6, 81.1], [42.2, 57.8]")
