"""An engine's layers, as its device reports them, against the plan that was made here."""

from pathlib import Path
from typing import Any

import pytest
from layer_reports import report
from tiny_onnx import PARITY

from pipeline.artifacts import Dialect, OnnxModel, Precision
from pipeline.compile.engine_audit import audit_engine, check_engine, write_plan
from pipeline.errors import CompileError, DeviceError
from targets.device.tensorrt.layer_report import read_report


def planned(folder: Path, *nodes: str) -> Path:
    model = OnnxModel(
        path=folder / "model.onnx",
        dialect=Dialect.TENSORRT,
        precision=Precision.INT8,
        parity=PARITY,
        quantized_layers=nodes,
        float_layers=(),
    )
    write_plan(model, folder)
    return folder


def layers(version: int, *, second: str = "int8") -> dict[str, Any]:
    """As `layers.json` has them."""
    return read_report(report(version, second=second)).as_json()


@pytest.mark.parametrize("version", [8, 10, 11])
def test_layers_that_run_as_planned_pass(tmp_path: Path, version: int) -> None:
    audit = audit_engine(planned(tmp_path, "conv1", "layer1.conv2"), layers(version))
    assert (audit.planned, audit.int8, audit.other, audit.untold) == (2, 2, {}, ())
    assert audit.reformats >= 1
    check_engine(audit, "orin")


@pytest.mark.parametrize("version", [8, 10, 11])
def test_one_that_runs_in_another_precision_is_an_error_with_its_name(tmp_path: Path, version: int) -> None:
    audit = audit_engine(planned(tmp_path, "conv1", "layer1.conv2"), layers(version, second="fp16"))
    assert (audit.int8, audit.other) == (1, {"layer1.conv2": "fp16"})
    with pytest.raises(
        CompileError, match=r"orin runs 1 of 2 .* in another precision: layer1\.conv2 in fp16\. .*keep_float"
    ):
        check_engine(audit, "orin")


def test_one_that_the_inspector_does_not_name_is_untold_not_wrong(tmp_path: Path) -> None:
    audit = audit_engine(planned(tmp_path, "conv1", "elsewhere"), layers(10))
    assert audit.untold == ("elsewhere",)
    assert "1 of 2 planned layers in int8, 1 not reported by its inspector" in audit.text
    check_engine(audit, "orin")


@pytest.mark.parametrize("damaged", [{}, {"layers": [{"name": "x"}]}, {"layers": 3}])
def test_a_damaged_report_is_refused(tmp_path: Path, damaged: dict[str, Any]) -> None:
    with pytest.raises(DeviceError, match="report of the engine's layers is damaged"):
        audit_engine(planned(tmp_path, "conv1"), damaged)
