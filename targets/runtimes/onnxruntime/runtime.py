"""ONNX Runtime on a CPU: session options, timing, and the audit of its optimized graph."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from pipeline.artifacts import Audit, Latency, OnnxModel
from pipeline.errors import CompileError
from targets.device.errors import SessionError
from targets.device.model.onnxruntime_session import OnnxRuntimeSession
from targets.runtimes.onnxruntime.audit import audit_graph
from targets.runtimes.timing import Report, Series, series_interleaved
from targets.target import Target

VERSION: str = ort.__version__
# ONNX Runtime fuses S8 activations only on ARM, U8 ones everywhere; this entry applies ARM's rules on other CPUs.
ARM_RULES = {"session.qdqisint8allowed": "1"}


class OnnxRuntimeCpu:
    """The `Runtime` of CPU targets."""

    @property
    def version(self) -> str:
        return VERSION

    def session_options(self, target: Target, *, threads: int) -> dict[str, str | int]:
        """Return options for one pool of `threads` that sleeps when idle, and all graph optimizations at load time.

        The shipped graph is not optimized, because layouts and fusions depend on the CPU that opens it.
        """
        del target
        return {
            "execution_mode": "sequential",
            "graph_optimization_level": "all",
            "intra_op_num_threads": threads,
            "inter_op_num_threads": 1,
            # Spinning threads take CPU time that other processes on a small device need.
            "session.intra_op.allow_spinning": "0",
        }

    def open(self, model: Path, *, options: Mapping[str, str | int]) -> OnnxRuntimeSession:
        """Open an ONNX file; raise `CompileError`."""
        try:
            return OnnxRuntimeSession(model, options)
        except SessionError as error:
            raise CompileError(str(error)) from None

    def time(
        self, models: Sequence[Path], *, options: Mapping[str, str | int], report: Report | None = None
    ) -> list[Latency]:
        """Return the latency of each model at batch 1, interleaved in one run."""
        return [series.latency() for series in self.series(models, options=options, report=report)]

    def series(
        self, models: Sequence[Path], *, options: Mapping[str, str | int], report: Report | None = None
    ) -> list[Series]:
        """Return the times of all inferences that `time` summarizes, in order."""
        inferences = [_inference(self.open(model, options=options)) for model in models]
        return series_interleaved(inferences, threads=int(options["intra_op_num_threads"]), report=report)

    def audit(self, model: OnnxModel, *, options: Mapping[str, str | int], platform: str | None = None) -> Audit:
        """Count what the optimized graph runs in int8; raise `CompileError` if it differs from the plan."""
        rules = ARM_RULES if platform == "linux/arm64" else {}
        with tempfile.TemporaryDirectory(prefix="edge-deploy-") as folder:
            optimized = Path(folder) / "optimized.onnx"
            try:
                OnnxRuntimeSession(model.path, {**options, **rules}, write_optimized=optimized).close()
            except SessionError as error:
                raise CompileError(str(error)) from None
            return audit_graph(model, optimized, runtime=f"ONNX Runtime {VERSION}")


def _inference(session: OnnxRuntimeSession) -> Callable[[], object]:
    image = np.random.default_rng(0).standard_normal((1, *session.input_shape)).astype(np.float32)
    return lambda: session.infer(image)
