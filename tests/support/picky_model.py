"""A model that refuses what it is not exactly asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from tiny_artifact import PREPROCESSING, write_tiny_artifact
from tiny_onnx import CLASSES
from tiny_package import colorful

from targets.device.model.golden import write_golden
from targets.device.model.manifest import sha256_of
from targets.device.model.preprocess import normalize
from targets.device.open_session import open_session


def write_picky_model(folder: Path) -> None:
    """An artifact that answers three images, as many as it has golden ones, and fails at any other number."""
    manifest = write_tiny_artifact(folder)
    model = onnx.load(folder / "model.onnx")
    model.graph.node[-1].output[0] = "plain"
    model.graph.node.append(helper.make_node("Add", ["plain", "shift"], ["logits"]))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((3, CLASSES), np.float32), "shift"))
    onnx.save(model, folder / "model.onnx")
    manifest = replace(manifest, model_sha256=sha256_of(folder / "model.onnx"))
    manifest.write(folder)
    pixels = colorful(3, seed=1)
    with open_session(folder, manifest) as session:
        write_golden(folder, pixels, session.infer(normalize(pixels, PREPROCESSING)))
