"""Open an artifact on a building machine, where ONNX Runtime stands in for a TensorRT that only its device has.

The file made for TensorRT is run node by node, unoptimized: its Q/DQ pairs are computed as they are written, which is
the reference of TensorRT's arithmetic and not its speed. What the engine will answer is proven on the device alone.
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
    """The session of an artifact folder on this machine; raises `ManifestError` or `SessionError`."""
    if manifest.runtime != "tensorrt":
        return open_session(folder, manifest)
    path = manifest.model_path(folder)
    options = {**UNOPTIMIZED, "intra_op_num_threads": manifest.session_options["threads"]}
    if manifest.precision == Precision.FP16:
        model = onnx.load(path)
        if not _is_in_half(model):
            # TensorRT before 10.12 is told to use fp16 and given the float file.
            with tempfile.TemporaryDirectory(prefix="edge-deploy-") as scratch:
                half = Path(scratch) / "half.onnx"
                onnx.save(in_half(model), half)
                return OnnxRuntimeSession(half, options)
    return OnnxRuntimeSession(path, options)


def place_of(manifest: Manifest) -> Place:
    """Where answers come from that `open_here`'s session gives."""
    return Place.SIMULATED if manifest.runtime == "tensorrt" else Place.HOST


def _is_in_half(model: onnx.ModelProto) -> bool:
    return any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
