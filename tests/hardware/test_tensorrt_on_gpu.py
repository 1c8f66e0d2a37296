"""Engines on a real GPU: `make test-gpu`. Skipped, with the reason, where TensorRT or the GPU is missing.

What is here has not been run on a GPU by its authors; limits are set by what rounding explains.
"""

import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from random_statistics import with_random_statistics
from tiny_quantized import CLASSES, marked, noise

from pipeline.artifacts import Architecture, Dialect, Precision
from pipeline.errors import CompileError
from pipeline.models.resnet import build_resnet
from pipeline.models.zoo import Bottleneck, residual
from targets.device.files import LAYERS
from targets.device.model.onnxruntime_session import OnnxRuntimeSession
from targets.device.nvidia.machine import Machine
from targets.device.tensorrt.layer_report import audit
from targets.device.tensorrt.passport import FILE
from targets.dialects.write import layer_names, write_dialect
from targets.runtimes.tensorrt.runtime import SOURCE, TensorRt

pytestmark = pytest.mark.gpu

SHAPES: dict[str, tuple[Architecture, int]] = {
    "resnet20": (residual(depths=(3, 3, 3), stage_widths=(16, 32, 64), classes=CLASSES), 32),
    "resnet18": (
        residual(
            stem="imagenet", shortcut="B", depths=(2, 2, 2, 2), stage_widths=(64, 128, 256, 512), classes=CLASSES
        ),
        224,
    ),
    "resnet50": (
        residual(
            stem="imagenet",
            shortcut="B",
            depths=(3, 4, 6, 3),
            stage_widths=(64, 128, 256, 512),
            classes=CLASSES,
            bottleneck=Bottleneck(),
        ),
        224,
    ),
}
PRECISIONS = (Precision.FP32, Precision.FP16, Precision.INT8)
# Mean difference from ONNX Runtime, in shares of the logits' range: TF32 and fp16 have 11 bits of mantissa; in int8 a
# value on the edge between two steps falls to either side.
LIMITS = {Precision.FP32: 2e-3, Precision.FP16: 5e-3, Precision.INT8: 2e-2}
IMAGES = 16


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> TensorRt:
    return TensorRt(timing_caches=tmp_path_factory.mktemp("timing-caches"), tool="test")


@pytest.fixture(scope="session")
def machine(runtime: TensorRt) -> Machine:
    try:
        return runtime.machine()
    except CompileError as error:
        pytest.skip(f"no engine can be built here: {error}")


@cache
def serialized(shape: str, dialect: Dialect) -> bytes:
    architecture, side = SHAPES[shape]
    torch.manual_seed(0)
    network = with_random_statistics(build_resnet(architecture), seed=0)
    model, quantization = marked(network, side=side)
    return bytes(write_dialect(model, quantization, dialect).SerializeToString())


def model_of(shape: str, precision: Precision, folder: Path) -> Path:
    path = folder / f"{shape}-{precision}.onnx"
    path.write_bytes(serialized(shape, Dialect.TENSORRT if precision is Precision.INT8 else Dialect.FLOAT))
    return path


def reference(model: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """ONNX Runtime's logits of the same file, unoptimized: the arithmetic that the file describes."""
    with OnnxRuntimeSession(model, {"graph_optimization_level": "disable"}) as session:
        return session.infer(images)


def options(runtime: TensorRt, **more: str) -> dict[str, str | int]:
    return {"max_batch": 8, "threads": 1, **more}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_engine_answers_as_onnx_runtime_does(
    machine: Machine, runtime: TensorRt, shape: str, precision: Precision, tmp_path: Path
) -> None:
    model = model_of(shape, precision, tmp_path)
    engine = runtime.build(model, tmp_path / "engine", precision=precision, max_batch=8)
    images = noise(IMAGES, SHAPES[shape][1], seed=7).numpy()
    wanted = reference(model, images)
    with runtime.open(engine, options=options(runtime)) as session:
        found = session.infer(images)
        # Batches of every size give the same image the same answer.
        one = np.concatenate([session.infer(images[index : index + 1]) for index in range(3)])
    span = float(np.ptp(wanted))
    assert np.abs(found - wanted).mean() <= LIMITS[precision] * span
    assert np.abs(one - found[:3]).mean() <= LIMITS[precision] * span
    report = json.loads((engine.parent / LAYERS).read_text())
    assert report["layers"]
    if precision is not Precision.INT8:
        assert "int8" not in report["by_precision"]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_layer_planned_in_int8_runs_in_int8(
    machine: Machine, runtime: TensorRt, shape: str, tmp_path: Path
) -> None:
    model = model_of(shape, Precision.INT8, tmp_path)
    engine = runtime.build(model, tmp_path / "engine", precision=Precision.INT8, max_batch=8)
    with runtime.open(engine, options=options(runtime)) as session:
        audit(session.layers(), int8=layer_names(onnx.load(engine.parent / SOURCE)))


@pytest.mark.parametrize("shape", SHAPES)
def test_speed(
    machine: Machine, runtime: TensorRt, shape: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prints a line of the table; no time is asserted."""
    engines = [
        runtime.build(model_of(shape, precision, tmp_path), tmp_path / precision, precision=precision, max_batch=8)
        for precision in PRECISIONS
    ]
    latencies = runtime.time(engines, options=options(runtime))
    kernels = []
    for engine in engines:
        with runtime.open(engine, options=options(runtime)) as session:
            kernels.append(float(np.median(session.gpu_ms(200))))
    told = [
        f"{precision} {latency.wall_ms:.3f} ms (p90 {latency.wall_p90_ms:.3f}, GPU {gpu:.3f})"
        for precision, latency, gpu in zip(PRECISIONS, latencies, kernels, strict=True)
    ]
    with capsys.disabled():
        line = f"{machine.gpu_name}, TensorRT {machine.tensorrt}, {shape}, batch 1: {'; '.join(told)}"
        sys.stdout.write(f"\n{line}\n")
    assert all(latency.wall_ms > 0 for latency in latencies)


def test_an_engine_of_another_place_is_refused_before_tensorrt_sees_it(
    machine: Machine, runtime: TensorRt, tmp_path: Path
) -> None:
    model = model_of("resnet20", Precision.FP16, tmp_path)
    engine = runtime.build(model, tmp_path / "engine", precision=Precision.FP16, max_batch=8)
    passport = engine.parent / FILE
    issued = passport.read_text()
    for field, value in (("tensorrt", "10.0.0.1"), ("gpu_name", "Another"), ("compute_capability", "5.3")):
        passport.write_text(json.dumps({**json.loads(issued), field: value}))
        with pytest.raises(CompileError, match=f"{field} is .* here, but the engine was built with '{value}'"):
            runtime.open(engine, options=options(runtime))
    passport.write_text(issued)
    engine.write_bytes(engine.read_bytes()[:-1])
    with pytest.raises(CompileError, match="engine_sha256 of"):
        runtime.open(engine, options=options(runtime))


def test_a_timing_cache_is_kept_used_and_made_anew_where_it_is_damaged(machine: Machine, tmp_path: Path) -> None:
    from targets.device.tensorrt.build import Order, build, timing_cache_file
    from targets.dialects.tensorrt_source import source_for

    source, cache = tmp_path / "source.onnx", timing_cache_file(tmp_path / "caches", machine)
    model = onnx.load(model_of("resnet20", Precision.INT8, tmp_path))
    onnx.save(source_for(model, machine.tensorrt, Precision.INT8), source)
    order = Order(
        onnx=source, precision="int8", max_batch=8, memory_bytes=machine.memory_bytes, timing_cache=cache
    )  # fmt: skip
    first = build(order)
    kept = cache.read_bytes()
    assert len(kept) > 100
    second = build(order)
    assert not [line for line in (*first.warnings, *second.warnings) if "were timed again" in line]
    # Nothing was timed that was not in it already.
    assert len(cache.read_bytes()) == len(kept)
    cache.write_bytes(b"no cache" * 16)
    third = build(order)
    assert [line for line in third.warnings if "were timed again" in line]
    assert len(cache.read_bytes()) > 100


def test_a_file_of_another_precision_is_refused(machine: Machine, runtime: TensorRt, tmp_path: Path) -> None:
    plain = model_of("resnet20", Precision.FP32, tmp_path)
    with pytest.raises(CompileError, match="no QuantizeLinear nodes"):
        runtime.build(plain, tmp_path / "engine", precision=Precision.INT8)


def test_a_dla_that_is_not_there_is_refused(machine: Machine, tmp_path: Path) -> None:
    if machine.l4t:
        pytest.skip("this is a Jetson, which may have one")
    model = model_of("resnet20", Precision.FP16, tmp_path)
    with pytest.raises(CompileError, match=r"dla_core is 0, but TensorRT .* reports 0 DLA cores here"):
        TensorRt(dla_core=0).build(model, tmp_path / "engine", precision=Precision.FP16)
