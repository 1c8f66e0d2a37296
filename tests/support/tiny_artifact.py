"""An artifact folder with the tiny network of `tiny_onnx`, made in an instant."""

from dataclasses import replace
from pathlib import Path

import onnxruntime
from tiny_onnx import CLASSES, SIDE, write_float, write_int8

from pipeline.workspace.hashing import sha256_of_file
from targets.device.model.cpu import instruction_set
from targets.device.model.manifest import SCHEMA, Manifest
from targets.device.model.preprocess import Preprocessing

PREPROCESSING = Preprocessing(resize=None, crop=(SIDE, SIDE), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
OPTIONS: dict[str, str | int] = {
    "graph_optimization_level": "all",
    "execution_mode": "sequential",
    "intra_op_num_threads": 1,
    "session.intra_op.allow_spinning": "0",
}


def manifest_of(folder: Path, model_sha256: str, *, classes: tuple[str, ...] = ("a", "b", "c", "d")) -> Manifest:
    assert len(classes) == CLASSES
    return Manifest(
        schema=SCHEMA,
        name="tiny",
        version="0.1.0",
        target="cpu",
        runtime="onnxruntime",
        runtime_version=onnxruntime.__version__,
        model_file="model.onnx",
        model_sha256=model_sha256,
        precision="fp32",
        weight_bits=None,
        input_shape=(3, SIDE, SIDE),
        classes=classes,
        preprocessing=PREPROCESSING,
        session_options=dict(OPTIONS),
        instruction_set=instruction_set(),
        tolerance=1e-3,
    )


def write_tiny_artifact(folder: Path, *, quantized: bool = False, weight_bits: int = 7) -> Manifest:
    """Model and manifest; no golden images."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model.onnx"
    if quantized:
        write_int8(model, weight_limit=63 if weight_bits == 7 else 127)
    else:
        write_float(model)
    manifest = manifest_of(folder, sha256_of_file(model))
    if quantized:
        manifest = replace(manifest, precision="int8", weight_bits=weight_bits)
    manifest.write(folder)
    return manifest
