import platform
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tiny_onnx import CLASSES, LAYERS, SIDE, Graph, write_float, write_int8

from pipeline.errors import CompileError
from targets.runtimes import timing
from targets.runtimes.base import Runtime
from targets.runtimes.onnxruntime.runtime import OnnxRuntimeCpu
from targets.runtimes.registry import RUNTIMES
from targets.target import Target, catalogue, find_target


@pytest.fixture
def runtime() -> Runtime:
    return OnnxRuntimeCpu()


@pytest.fixture
def target() -> Target:
    return find_target("cpu")


@pytest.fixture
def options(runtime: Runtime, target: Target) -> dict[str, str | int]:
    return dict(runtime.session_options(target, threads=1))


def test_every_cpu_of_the_catalogue_has_its_runtime() -> None:
    assert {target.runtime for target in catalogue() if target.gpu is None} <= set(RUNTIMES)


def test_it_names_the_version_that_runs(runtime: Runtime) -> None:
    assert runtime.version == onnxruntime.__version__


def test_options_follow_the_threads_and_never_spin(runtime: Runtime, target: Target) -> None:
    options = runtime.session_options(target, threads=3)
    assert options["intra_op_num_threads"] == 3
    assert options["execution_mode"] == "sequential"
    assert options["graph_optimization_level"] == "all"
    assert options["session.intra_op.allow_spinning"] == "0"


def test_a_bare_model_is_opened_and_answers(runtime: Runtime, options: dict[str, str | int], tmp_path: Path) -> None:
    session = runtime.open(write_float(tmp_path / "model.onnx").path, options=options)
    assert session.infer(np.zeros((2, 3, SIDE, SIDE), np.float32)).shape == (2, CLASSES)


def test_what_does_not_open_is_a_compile_error(
    runtime: Runtime, options: dict[str, str | int], tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"something else")
    with pytest.raises(CompileError, match="cannot open"):
        runtime.open(tmp_path / "model.onnx", options=options)
    with pytest.raises(CompileError, match="cannot open"):
        runtime.time([tmp_path / "absent.onnx"], options=options)


def test_models_are_timed_in_the_order_given(
    runtime: Runtime, options: dict[str, str | int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "MODEL_SECONDS", 0.02)
    paths = [write_float(tmp_path / "a.onnx").path, write_int8(tmp_path / "b.onnx").path]
    shares: list[float] = []
    latencies = runtime.time(paths, options={**options, "intra_op_num_threads": 2}, report=shares.append)
    assert sum(shares) == pytest.approx(1)
    assert len(latencies) == 2
    assert all(latency.cpu_ms > 0 and latency.threads == 2 for latency in latencies)


def test_the_audit_looks_into_the_optimized_graph_and_leaves_nothing_behind(
    runtime: Runtime,
    options: dict[str, str | int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    int8 = runtime.audit(write_int8(tmp_path / "int8.onnx"), options=options)
    float32 = runtime.audit(write_float(tmp_path / "float.onnx"), options=options)
    assert (int8.int8_nodes, int8.float_nodes) == (len(LAYERS), 0)
    assert (float32.int8_nodes, float32.float_nodes) == (0, len(LAYERS))
    assert list(scratch.iterdir()) == []


def test_an_audit_of_a_plan_that_is_not_met_fails(
    runtime: Runtime, options: dict[str, str | int], tmp_path: Path
) -> None:
    model = write_int8(tmp_path / "model.onnx", unquantized=("mean",))
    with pytest.raises(CompileError, match=rf"ONNX Runtime {onnxruntime.__version__} runs 1 of the 4 layers"):
        runtime.audit(model, options=options)


def test_the_dialect_fuses_under_arms_graph_rules_too(
    runtime: Runtime, options: dict[str, str | int], tmp_path: Path
) -> None:
    model = write_int8(tmp_path / "int8.onnx")
    assert runtime.audit(model, options=options, platform="linux/arm64").int8_nodes == len(LAYERS)


def test_an_audit_for_arm_asks_for_arms_rules(
    runtime: Runtime, options: dict[str, str | int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against ONNX Runtime itself: signed activations are fused by ARM's rules and by no other."""
    monkeypatch.setattr("tiny_onnx.Graph.point", signed_point)
    model = write_int8(tmp_path / "signed.onnx")
    assert runtime.audit(model, options=options, platform="linux/arm64").int8_nodes == len(LAYERS)
    if platform.machine() in ("x86_64", "AMD64"):
        with pytest.raises(CompileError, match="of the 4 layers planned in int8 in float"):
            runtime.audit(model, options=options, platform="linux/amd64")


def signed_point(graph: Graph, source: str, name: str, zero_point: int) -> str:
    """Q and DQ to int8 in place of uint8, with the zero point moved along."""
    grid = [
        graph.constant(f"{name}.scale", np.array(0.03, np.float32)),
        graph.constant(f"{name}.zero_point", np.array(zero_point - 128, np.int8)),
    ]
    integer = graph.node("QuantizeLinear", [source, *grid], f"{name}.quantize")
    return graph.node("DequantizeLinear", [integer, *grid], f"{name}.dequantize")
