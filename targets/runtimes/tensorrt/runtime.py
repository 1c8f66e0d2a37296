"""TensorRT on a GPU of this machine: building engines with their passports, timing, and the audit.

Modules that need TensorRT are imported on use, so that a host without a GPU can export for TensorRT.
"""

import hashlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from pipeline.artifacts import Audit, Latency, OnnxModel, Precision
from pipeline.errors import CompileError
from targets.device.errors import BuildError, SessionError
from targets.device.files import ENGINE, LAYERS
from targets.device.nvidia.cudart import CudaError
from targets.device.nvidia.machine import Machine, MachineError
from targets.device.tensorrt import layer_report, passport
from targets.dialects.tensorrt_source import source_for
from targets.runtimes.timing import Report, time_interleaved
from targets.target import Target

if TYPE_CHECKING:
    from targets.device.tensorrt.session import TensorRtSession

SOURCE = "model.onnx"
MAX_BATCH = 32


class TensorRt:
    """The `Runtime` of NVIDIA targets, where the GPU is in this machine."""

    def __init__(self, *, timing_caches: Path | None = None, dla_core: int | None = None, tool: str = "") -> None:
        """Keep timing caches in `timing_caches`, which makes later builds much faster."""
        self._timing_caches = timing_caches
        self._dla_core = dla_core
        self._tool = tool

    @property
    def version(self) -> str:
        """TensorRT's version, all four parts; raises `CompileError` if TensorRT or a GPU is missing."""
        return self.machine().tensorrt

    def machine(self) -> Machine:
        """Return the properties of this machine that its engines depend on; raise `CompileError`."""
        with _compile_errors():
            return passport.here()

    def session_options(self, target: Target, *, threads: int) -> dict[str, str | int]:
        """Return options for batches up to `max_batch`; `threads` preprocess images and do not compute."""
        del target
        return {"max_batch": MAX_BATCH, "threads": threads}

    def build(
        self, model: Path, folder: Path, *, precision: Precision, max_batch: int = MAX_BATCH, place: str = "host"
    ) -> Path:
        """Write `model.engine`, `passport.json`, the ONNX file it was built from and `layers.json` into `folder`.

        `model` is in the TensorRT dialect for int8, in the float dialect otherwise. Returns the engine's path; raises
        `CompileError` with TensorRT's reason.
        """
        with _compile_errors():
            from targets.device.tensorrt.build import Order, build, timing_cache_file

            machine = passport.here()
            folder.mkdir(parents=True, exist_ok=True)
            source, engine = folder / SOURCE, folder / ENGINE
            onnx.save(source_for(onnx.load(model), machine.tensorrt, precision), source)
            cache = timing_cache_file(self._timing_caches or self._scratch, machine)
            order = Order(
                onnx=source,
                precision=precision.value,
                max_batch=max_batch,
                memory_bytes=machine.memory_bytes,
                dla_core=self._dla_core,
                timing_cache=cache,
            )
            with _all_or_none(engine, folder / passport.FILE, folder / LAYERS):
                engine.write_bytes(build(order).engine)
                passport.issue(
                    machine,
                    engine,
                    source,
                    precision=precision.value,
                    dla_core=self._dla_core,
                    timing_cache=cache,
                    built_at_place=place,
                    tool=self._tool,
                ).write(folder)
                with _session(engine) as session:
                    (folder / LAYERS).write_text(json.dumps(session.layers().as_json(), indent=2) + "\n")
            return engine

    def open(self, model: Path, *, options: Mapping[str, str | int]) -> "TensorRtSession":
        """Open an engine, or an ONNX file after building its engine; raise `CompileError`.

        An ONNX file with Q/DQ is built in int8, others in fp32, unless `options` name a precision.
        """
        engine = (
            model if model.suffix == ".engine" else self._build_engine(model, self._precision(model, options), options)
        )
        with _compile_errors():
            return _session(engine)

    def time(
        self, models: Sequence[Path], *, options: Mapping[str, str | int], report: Report | None = None
    ) -> list[Latency]:
        """Return the latency of each model at batch 1, with copies to and from the GPU, interleaved in one run.

        Compare by wall time: CPU time does not contain the GPU's work.
        """
        with ExitStack() as stack:
            sessions = [stack.enter_context(self.open(model, options=options)) for model in models]
            with _compile_errors():
                inferences = [_inference(session) for session in sessions]
                return time_interleaved(inferences, threads=int(options["threads"]), report=report)

    def audit(self, model: OnnxModel, *, options: Mapping[str, str | int], platform: str | None = None) -> Audit:
        """Count what runs in int8 by the engine inspector; raise `CompileError` if it differs from the plan."""
        here = self.machine().platform
        if platform not in (None, here):
            raise CompileError(f"this machine is {here}, and engines for {platform} cannot be built or read on it.")
        engine = self._build_engine(model.path, model.precision, options)
        with _compile_errors(), _session(engine) as session:
            report = session.layers()
            layer_report.audit(report, int8=model.quantized_layers, kept_float=model.float_layers)
        return Audit(
            int8_nodes=len(model.quantized_layers),
            float_nodes=len(model.float_layers),
            kept_float=model.float_layers,
            operators=report.by_kind(),
        )

    @cached_property
    def _scratch(self) -> Path:
        """Temporary folder for engines; removed with this object."""
        folder = tempfile.mkdtemp(prefix="edge-deploy-engines-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def _build_engine(self, model: Path, precision: Precision, options: Mapping[str, str | int]) -> Path:
        """Return the engine of an ONNX file; each is built once in this object's lifetime."""
        max_batch = int(options["max_batch"])
        key = hashlib.sha256(model.read_bytes()).hexdigest()[:24]
        folder = self._scratch / f"{key}-{precision}-{max_batch}"
        # The last file that a build writes.
        if not (folder / LAYERS).is_file():
            self.build(model, folder, precision=precision, max_batch=max_batch)
        return folder / ENGINE

    def _precision(self, model: Path, options: Mapping[str, str | int]) -> Precision:
        if "precision" in options:
            return Precision(str(options["precision"]))
        quantized = any(node.op_type == "QuantizeLinear" for node in onnx.load(model).graph.node)
        return Precision.INT8 if quantized else Precision.FP32


@contextmanager
def _all_or_none(*files: Path) -> Iterator[None]:
    """Remove files of an earlier build, and on failure those of this one."""
    with ExitStack() as unfinished:
        for file in files:
            file.unlink(missing_ok=True)
            unfinished.callback(file.unlink, missing_ok=True)
        yield
        unfinished.pop_all()


@contextmanager
def _compile_errors() -> Iterator[None]:
    """Re-raise errors of the device code as `CompileError` with the same message."""
    errors: tuple[type[Exception], ...] = (
        BuildError,
        CudaError,
        MachineError,
        SessionError,
        layer_report.LayerError,
        passport.PassportError,
    )
    try:
        yield
    except errors as error:
        raise CompileError(str(error)) from None
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise
        raise CompileError(
            "TensorRT is not installed here, so engines cannot be built or run. Install the version of the target's "
            "image (`deploy targets` shows it), or build the engine on the device."
        ) from None


def _session(engine: Path) -> "TensorRtSession":
    from targets.device.tensorrt.session import TensorRtSession

    return TensorRtSession(engine)


def _inference(session: "TensorRtSession") -> Callable[[], object]:
    image = np.random.default_rng(0).standard_normal((1, *session.input_shape)).astype(np.float32)
    return lambda: session.infer(image)
