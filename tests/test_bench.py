from pathlib import Path

import pytest
from tiny_artifact import write_tiny_artifact
from tiny_onnx import write_float

from pipeline.bench import bench, model_file
from pipeline.errors import CompileError
from targets.runtimes import timing


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MODEL_SECONDS", 0.02)
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 0.001)


def test_artifacts_and_files_are_timed_together(tmp_path: Path) -> None:
    write_tiny_artifact(tmp_path / "artifact", quantized=True)
    write_float(tmp_path / "model.onnx")
    latencies = bench([tmp_path / "artifact", tmp_path / "model.onnx"], threads=2).latencies
    assert [latency.threads for latency in latencies] == [2, 2]
    assert all(latency.cpu_ms > 0 for latency in latencies)


def test_an_artifact_is_its_model(tmp_path: Path) -> None:
    write_tiny_artifact(tmp_path)
    assert model_file(tmp_path) == tmp_path / "model.onnx"
    assert model_file(tmp_path / "model.onnx") == tmp_path / "model.onnx"


def test_what_cannot_be_timed_is_named(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"absent\.onnx does not exist"):
        bench([tmp_path / "absent.onnx"])
    with pytest.raises(CompileError, match="is no artifact"):
        bench([tmp_path])
    write_tiny_artifact(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"changed")
    with pytest.raises(CompileError, match="not the model its manifest describes"):
        bench([tmp_path])
    with pytest.raises(CompileError, match="cannot open"):
        bench([tmp_path / "model.onnx"])
