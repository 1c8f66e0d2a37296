"""Build, open, run, time and audit, driven through a stand-in that computes with ONNX Runtime in host memory.

What our code asks in what order, with which sizes, and what becomes of each refusal. Not how TensorRT behaves.
"""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from stand_in_tensorrt import StandIn
from tiny_cuda import alive, library
from tiny_quantized import exported, noise

from pipeline.artifacts import Dialect, OnnxModel, Precision
from pipeline.errors import CompileError
from targets.device.files import LAYERS
from targets.device.model.onnxruntime_session import OnnxRuntimeSession
from targets.device.nvidia import cudart
from targets.device.tensorrt import passport
from targets.dialects.tensorrt_source import FIRST_NEW_PARSER, FIRST_STRONG
from targets.runtimes.tensorrt.runtime import SOURCE, TensorRt

__all__ = ["library"]
MODULES = ("log", "weakly_typed", "strongly_typed", "build", "session")
Start = Callable[[str], StandIn]


@pytest.fixture
def start(library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Put the stand-in of one version where our modules import TensorRT from."""
    monkeypatch.setattr(cudart, "LIBRARIES", (str(library),))

    def begin(version: str) -> StandIn:
        for name in MODULES:
            monkeypatch.delitem(sys.modules, f"targets.device.tensorrt.{name}", raising=False)
        made = StandIn(version)
        monkeypatch.setitem(sys.modules, "tensorrt", made)
        return made

    yield begin
    for name in MODULES:
        sys.modules.pop(f"targets.device.tensorrt.{name}", None)


@pytest.fixture
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[Dialect, OnnxModel]:
    return exported("option A", tmp_path_factory).models


def images(count: int = 11) -> NDArray[np.float32]:
    array: NDArray[np.float32] = noise(count, seed=5).numpy()
    return array


def reference(path: Path) -> NDArray[np.float32]:
    with OnnxRuntimeSession(path, {"graph_optimization_level": "disable"}) as session:
        return session.infer(images())


OPTIONS: dict[str, str | int] = {"max_batch": 4, "threads": 1}
VERSIONS = ("8.5.2.2", "10.3.0.30", "10.16.2.10", "11.4.0.106")


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_built_answers_in_batches_of_every_size(
    start: Start, models: dict[Dialect, OnnxModel], version: str, precision: Precision, tmp_path: Path, library: Path
) -> None:
    start(version)
    model = models[Dialect.TENSORRT if precision is Precision.INT8 else Dialect.FLOAT]
    runtime, before = TensorRt(), alive(library)
    engine = runtime.build(model.path, tmp_path / "made", precision=precision, max_batch=4)
    assert {path.name for path in engine.parent.iterdir()} == {"model.engine", "passport.json", SOURCE, LAYERS}
    issued = passport.read(engine.parent)
    assert (issued.tensorrt, issued.precision, issued.gpu_name) == (version, precision, "Orin")
    passport.check_files(issued, engine, engine.parent / SOURCE)
    with runtime.open(engine, options=OPTIONS) as session:
        assert (session.input_shape, session.classes, session.max_batch) == ((3, 16, 16), 10, 4)
        # Eleven images in batches of 4, 4 and 3.
        found = session.infer(images())
        assert np.allclose(found, reference(engine.parent / SOURCE), atol=1e-5)
        assert session.infer(images()[:0]).shape == (0, 10)
        assert len(session.gpu_ms(3)) == 3
        session.close()
        with pytest.raises(RuntimeError, match="the session is closed"):
            session.infer(images())
    assert alive(library) == before


@pytest.mark.parametrize(
    ("version", "precision", "flags", "network"),
    [
        ("8.6.2.3", Precision.INT8, {"INT8", "FP16"}, 0b01),
        ("8.5.2.2", Precision.FP16, {"FP16"}, 0b01),
        ("8.5.2.2", Precision.FP32, set(), 0b01),
        ("10.3.0.30", Precision.INT8, {"INT8", "FP16"}, 0b00),
        ("10.3.0.30", Precision.FP16, {"FP16"}, 0b00),
        ("10.12.0.36", Precision.FP16, set(), 0b10),
        ("11.4.0.106", Precision.INT8, set(), 0b10),
    ],
)
def test_each_version_is_asked_in_its_own_words(
    start: Start,
    models: dict[Dialect, OnnxModel],
    version: str,
    precision: Precision,
    flags: set[str],
    network: int,
    tmp_path: Path,
) -> None:
    trt: Any = start(version)
    model = models[Dialect.TENSORRT if precision is Precision.INT8 else Dialect.FLOAT]
    TensorRt().build(model.path, tmp_path, precision=precision, max_batch=4)
    assert trt.last.network.flags == network
    config = trt.last.config
    assert config.flags == {trt.BuilderFlag[name] for name in flags}
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    # A quarter of the 8 GB that the library tells of.
    assert config.pools == {trt.MemoryPoolType.WORKSPACE: 2_000_000_000}
    assert [list(shape) for shape in config.profiles[0].shapes] == [[1, 3, 16, 16], [1, 3, 16, 16], [4, 3, 16, 16]]


def test_a_dla_takes_one_batch_which_is_filled_up(
    start: Start, models: dict[Dialect, OnnxModel], tmp_path: Path
) -> None:
    trt: Any = start("10.3.0.30")
    runtime = TensorRt(dla_core=1)
    engine = runtime.build(models[Dialect.FLOAT].path, tmp_path, precision=Precision.FP16, max_batch=4)
    config = trt.last.config
    assert (config.DLA_core, config.default_device_type) == (1, trt.DeviceType.DLA)
    assert config.flags == {trt.BuilderFlag.FP16, trt.BuilderFlag.GPU_FALLBACK}
    assert passport.read(tmp_path).dla_core == 1
    with runtime.open(engine, options=OPTIONS) as session:
        assert (session.least_batch, session.max_batch) == (4, 4)
        assert np.allclose(session.infer(images()), reference(tmp_path / SOURCE), atol=1e-5)


@pytest.mark.parametrize(
    ("core", "precision", "message"),
    [
        (2, Precision.FP16, "dla_core is 2, but TensorRT 10.3.0.30 reports 2 DLA cores here .*without dla_core"),
        (0, Precision.INT8, "with this TensorRT, the DLA runs no int8 from Q/DQ; build fp16 for it, or int8 for"),
        (0, Precision.FP32, "runs no fp32 from Q/DQ; build fp16"),
    ],
)
def test_what_a_dla_cannot_do_is_refused(
    start: Start, models: dict[Dialect, OnnxModel], core: int, precision: Precision, message: str, tmp_path: Path
) -> None:
    start("10.3.0.30")
    model = models[Dialect.TENSORRT if precision is Precision.INT8 else Dialect.FLOAT]
    with pytest.raises(CompileError, match=message):
        TensorRt(dla_core=core).build(model.path, tmp_path, precision=precision)


@pytest.mark.parametrize("missing", ["platform_has_fast_int8", "platform_has_fast_fp16"])
def test_a_gpu_without_the_arithmetic_is_refused(
    start: Start, models: dict[Dialect, OnnxModel], missing: str, tmp_path: Path
) -> None:
    trt: Any = start("8.5.2.2")
    setattr(trt.Builder, missing, False)
    with pytest.raises(CompileError, match=r"this GPU has no (int8|fast fp16) arithmetic; build in"):
        TensorRt().build(models[Dialect.TENSORRT].path, tmp_path, precision=Precision.INT8)


def test_a_file_is_built_in_no_other_precision(start: Start, models: dict[Dialect, OnnxModel], tmp_path: Path) -> None:
    start("10.3.0.30")
    for dialect, precision in ((Dialect.FLOAT, Precision.INT8), (Dialect.TENSORRT, Precision.FP16)):
        with pytest.raises(CompileError, match=f"QuantizeLinear nodes, so it would not be {precision}"):
            TensorRt().build(models[dialect].path, tmp_path, precision=precision)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("builder", "cannot start here: no CUDA-capable device. It needs an NVIDIA GPU"),
        ("parse", r"cannot read .*model\.onnx: node 7: only symmetric quantization is supported\."),
        ("build", "cannot build .*in int8: Could not find any implementation for node conv1"),
        ("runtime", "cannot start here: TensorRT gives no reason"),
        ("deserialize", r"cannot read .*, although its passport fits this machine: Version tag does not match"),
        ("context", "cannot run .*model.engine"),
        ("address", "rejects the memory for images"),
        ("shape", "the engine rejects the batch size 1"),
    ],
)
def test_every_refusal_of_tensorrt_says_why(
    start: Start, models: dict[Dialect, OnnxModel], step: str, message: str, tmp_path: Path, library: Path
) -> None:
    start("11.4.0.106").refuse = step
    before = alive(library)
    with pytest.raises(CompileError, match=message):
        TensorRt().build(models[Dialect.TENSORRT].path, tmp_path, precision=Precision.INT8)
    assert alive(library) == before
    # Nothing that could be taken for an engine.
    assert {path.name for path in tmp_path.iterdir()} <= {SOURCE}


def test_a_failure_at_run_time_says_why_and_the_session_goes_on(
    start: Start, models: dict[Dialect, OnnxModel], tmp_path: Path
) -> None:
    trt = start("11.4.0.106")
    runtime = TensorRt()
    engine = runtime.build(models[Dialect.TENSORRT].path, tmp_path, precision=Precision.INT8, max_batch=4)
    with runtime.open(engine, options=OPTIONS) as session:
        trt.refuse = "execute"
        with pytest.raises(RuntimeError, match="failed at run time: not enough memory"):
            session.infer(images())
        trt.refuse = None
        assert session.infer(images()).shape == (11, 10)
        with pytest.raises(ValueError, match=r"input is float32 \[N, 3, 16, 16\]; got float64"):
            session.infer(images().astype(np.float64))


def test_the_audit_counts_and_finds_what_runs_otherwise(
    start: Start, models: dict[Dialect, OnnxModel], tmp_path: Path
) -> None:
    start("10.16.2.10")
    runtime, model = TensorRt(), models[Dialect.TENSORRT]
    found = runtime.audit(model, options=OPTIONS)
    assert (found.int8_nodes, found.float_nodes) == (7, 0)
    assert found.operators == {"Conv": 6, "Gemm": 1}
    float_file = replace(models[Dialect.FLOAT], quantized_layers=("conv1",), float_layers=())
    with pytest.raises(CompileError, match="1 of the 1 layers planned in int8 as int8: conv1: runs in fp32"):
        runtime.audit(float_file, options=OPTIONS)
    with pytest.raises(CompileError, match="engines for linux/riscv64 cannot be built or read on it"):
        runtime.audit(model, options=OPTIONS, platform="linux/riscv64")


def test_models_are_timed_beside_each_other_and_built_once(
    start: Start, models: dict[Dialect, OnnxModel], tmp_path: Path
) -> None:
    trt = start("10.16.2.10")
    runtime = TensorRt()
    paths = [models[Dialect.FLOAT].path, models[Dialect.TENSORRT].path]
    latencies = runtime.time(paths, options=OPTIONS)
    assert [latency.runs > 0 and latency.wall_ms > 0 for latency in latencies] == [True, True]
    assert "build" in trt.asked
    trt.asked.clear()
    runtime.open(paths[0], options=OPTIONS).close()
    assert "build" not in trt.asked
    runtime.open(paths[0], options={**OPTIONS, "precision": "fp16"}).close()
    assert "build" in trt.asked


def test_a_timing_cache_outlives_the_build_and_a_damaged_one_is_said(
    start: Start, models: dict[Dialect, OnnxModel], tmp_path: Path
) -> None:
    trt: Any = start("10.3.0.30")
    caches = tmp_path / "caches"
    runtime = TensorRt(timing_caches=caches)
    source = models[Dialect.TENSORRT].path
    runtime.build(source, tmp_path / "first", precision=Precision.INT8)
    (cache,) = caches.iterdir()
    assert cache.name == "timing-10.3.0.30-orin-sm87x14.cache"
    assert cache.read_bytes() == b"timings"
    assert passport.read(tmp_path / "first").timing_cache_sha256 == passport.sha256(cache)
    runtime.build(source, tmp_path / "second", precision=Precision.INT8)
    assert trt.last.config.cache == b"timings"

    cache.write_bytes(b"spoiled")
    module = importlib.import_module("targets.device.tensorrt.build")
    order = module.Order(
        onnx=tmp_path / "first" / SOURCE, precision="int8", max_batch=4, memory_bytes=1 << 30, timing_cache=cache
    )
    built = module.build(order)
    anew = f"the timing cache {cache} is damaged or from another machine; all kernels were timed again"
    assert built.warnings == (anew, "A warning.")
    assert cache.read_bytes() == b"timings"


def test_the_layer_report_lies_beside_the_engine(
    start: Start, models: dict[Dialect, OnnxModel], tmp_path: Path
) -> None:
    start("11.4.0.106")
    TensorRt().build(models[Dialect.TENSORRT].path, tmp_path, precision=Precision.INT8)
    assert json.loads((tmp_path / LAYERS).read_text())["by_precision"] == {"int8": 7}


def test_host_and_device_draw_the_same_line_between_versions(start: Start) -> None:
    """The host writes what the device's generation asks for, and cannot import it to ask."""
    start("11.4.0.106")
    module = importlib.import_module("targets.device.tensorrt.build")
    assert (module.FIRST_STRONG, module.FIRST_WITHOUT_IMPLICIT_BATCH) == (FIRST_STRONG, FIRST_NEW_PARSER)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", Precision)
def test_a_network_that_is_partly_float_is_built_in_each(
    start: Start, version: str, precision: Precision, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    start(version)
    models = exported("option A", tmp_path_factory, keep_float=("conv1", "fc")).models
    model = models[Dialect.TENSORRT if precision is Precision.INT8 else Dialect.FLOAT]
    runtime = TensorRt()
    runtime.build(model.path, tmp_path, precision=precision, max_batch=4)
    found = runtime.audit(replace(model, precision=precision), options=OPTIONS)
    assert found.int8_nodes == (5 if precision is Precision.INT8 else 0)
