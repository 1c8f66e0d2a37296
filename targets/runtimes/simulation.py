"""Open an artifact on the build host, where ONNX Runtime simulates TensorRT.

The file for TensorRT runs node by node without graph optimization: its Q/DQ pairs are computed as written, which is
the reference for TensorRT's arithmetic but not its speed. Only a run on the device proves the engine's accuracy.
"""

import tempfile
from pathlib import Path

import onnx

from pipeline.artifacts import Place, Precision
from targets.device.model.manifest import Manifest
from targets.device.model.onnxruntime_session import OnnxRuntimeSession
from targets.device.model.session import Session
from targets.device.open_session import open_session
from targets.dialects.tensorrt_source import in_half

UNOPTIMIZED = {"graph_optimization_level": "disable"}


def open_here(folder: Path, manifest: Manifest) -> Session:
    """Open an artifact folder on this machine; raise `ManifestError` or `SessionError`."""
    if manifest.runtime != "tensorrt":
        return open_session(folder, manifest)
    path = manifest.model_path(folder)
    options = {**UNOPTIMIZED, "intra_op_num_threads": manifest.session_options["threads"]}
    if manifest.precision == Precision.FP16:
        model = onnx.load(path)
        if not _is_in_half(model):
            # TensorRT before 10.12 builds fp16 from the float file.
            with tempfile.TemporaryDirectory(prefix="edge-deploy-") as scratch:
                half = Path(scratch) / "half.onnx"
                onnx.save(in_half(model), half)
                return OnnxRuntimeSession(half, options)
    return OnnxRuntimeSession(path, options)


def place_of(manifest: Manifest) -> Place:
    """Return the place of predictions from `open_here`'s session."""
    return Place.SIMULATED if manifest.runtime == "tensorrt" else Place.HOST


def _is_in_half(model: onnx.ModelProto) -> bool:
    return any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
