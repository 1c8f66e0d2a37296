import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from machine_files import PC, RASPBERRY_PI, write_files
from tiny_artifact import write_tiny_artifact
from tiny_onnx import write_float
from typer.testing import CliRunner

from pipeline.benchmarking import models as module
from pipeline.benchmarking.models import bench, model_file
from pipeline.cli.app import app
from pipeline.cli.bench import conditions_line
from pipeline.errors import CompileError
from targets.runtimes import timing
from targets.runtimes.onnxruntime.runtime import OnnxRuntimeCpu
from targets.runtimes.timing import Series


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MODEL_SECONDS", 0.02)
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 0.001)
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.2)


def timed_as(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float], *, lasting: float = 0.5) -> None:
    """Models that take these seconds of CPU time, by the number of the run: no real one drifts on demand."""

    def series(self: OnnxRuntimeCpu, models: Sequence[Path], *, options: object) -> list[Series]:
        time.sleep(lasting)
        times = [seconds(run) for run in range(300)]
        return [Series(cpu=times, wall=times, threads=1) for _ in models]

    monkeypatch.setattr(OnnxRuntimeCpu, "series", series)


def test_artifacts_and_files_are_timed_together(tmp_path: Path) -> None:
    write_tiny_artifact(tmp_path / "artifact", quantized=True)
    write_float(tmp_path / "model.onnx")
    found = bench([tmp_path / "artifact", tmp_path / "model.onnx"], threads=2)
    assert [latency.threads for latency in found.latencies] == [2, 2]
    assert all(latency.cpu_ms > 0 for latency in found.latencies)
    assert found.facts["load average before"]


def test_an_artifact_is_its_model(tmp_path: Path) -> None:
    write_tiny_artifact(tmp_path)
    assert model_file(tmp_path) == tmp_path / "model.onnx"
    assert model_file(tmp_path / "model.onnx") == tmp_path / "model.onnx"


def test_what_cannot_be_timed_is_named_and_leaves_nothing_running(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(CompileError, match=r"absent\.onnx does not exist"):
        bench([tmp_path / "absent.onnx"])
    with pytest.raises(CompileError, match="is not an artifact"):
        bench([tmp_path])
    write_tiny_artifact(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"changed")
    with pytest.raises(CompileError, match="not the model its manifest describes"):
        bench([tmp_path])
    with pytest.raises(CompileError, match="cannot open"):
        bench([tmp_path / "model.onnx"])
    assert threading.active_count() == before


def test_conditions_are_shown_in_a_line(tmp_path: Path) -> None:
    write_float(tmp_path / "model.onnx")
    found = bench([tmp_path / "model.onnx"], root=write_files(tmp_path / "pc", PC))
    assert conditions_line(found) == (
        "conditions: CPU at 3400 to 3400 MHz; CPU governor powersave; CPU clock driver tegra194; CPU least clock "
        "115 MHz; CPU most clock 4500 MHz; CPU boost on; load average before 0.10 0.20 0.30; k10temp 44 to 44 °C; "
        "no throttling"
    )


def test_a_run_at_cut_clocks_is_unstable(tmp_path: Path) -> None:
    write_float(tmp_path / "model.onnx")
    found = bench([tmp_path / "model.onnx"], root=write_files(tmp_path / "pi", RASPBERRY_PI))
    assert "clocks were throttled: firmware (under-voltage, cap, heat)" in found.reasons
    assert "clocks were cut" in conditions_line(found)


def test_a_model_that_drifts_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_float(tmp_path / "model.onnx")
    root = write_files(tmp_path / "pc", PC)
    timed_as(monkeypatch, lambda run: 0.001 * (1 + run / 3000))
    (level, drift) = bench([tmp_path / "model.onnx"], root=root).reasons
    assert level.startswith(f"{tmp_path / 'model.onnx'}: the level changes")
    assert "still drifting: +" in drift
    timed_as(monkeypatch, lambda run: 0.001 * (1 + run % 2 / 30))
    assert bench([tmp_path / "model.onnx"], root=root).reasons == ()


def test_the_command_shows_conditions_and_says_that_it_was_unstable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_float(tmp_path / "model.onnx")
    timed_as(monkeypatch, lambda run: 0.001 * (1 + run / 1000))
    shown = CliRunner().invoke(app, ["bench", str(tmp_path / "model.onnx")])
    assert shown.exit_code == 0, shown.output
    assert "conditions: " in shown.stdout
    assert "UNSTABLE, measure again: " in shown.stdout
    assert "still drifting" in shown.stdout
    document = json.loads(CliRunner().invoke(app, ["bench", str(tmp_path / "model.onnx"), "--json"]).stdout)
    assert set(document) == {"models", "stable", "reasons", "conditions", "missing"}
    assert document["stable"] is False
    assert [row["model"] for row in document["models"]] == [str(tmp_path / "model.onnx")]
    assert "load average before" in document["conditions"]["facts"]
