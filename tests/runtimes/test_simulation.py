"""What a host without TensorRT opens in its place: the very file, in the very types, and never another precision."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_onnx import SIDE, write_float
from tiny_package import write_tiny_package

from pipeline.artifacts import Place
from pipeline.workspace.hashing import sha256_of_file
from targets.device.model.manifest import Manifest, ManifestError, read_manifest
from targets.device.model.onnxruntime_session import OnnxRuntimeSession
from targets.dialects.tensorrt_source import in_half
from targets.runtimes.simulation import open_here, place_of

IMAGES = np.random.default_rng(0).standard_normal((4, 3, SIDE, SIDE)).astype(np.float32)


def artifact(folder: Path, precision: str, *, half: bool = False) -> Manifest:
    """A folder whose engine would be built from a float file, or from one in float16."""
    described = read_manifest(write_tiny_package(folder / "tiny").folder)
    model = write_float(folder / "model.onnx").path
    if half:
        onnx.save(in_half(onnx.load(model)), model)
    return replace(
        described,
        runtime="tensorrt",
        runtime_version="10.3.0",
        precision=precision,
        weight_bits=None,
        model_file="model.onnx",
        model_sha256=sha256_of_file(model),
        session_options={"max_batch": 32, "threads": 1},
    )


def answers(folder: Path, manifest: Manifest) -> np.ndarray:
    with open_here(folder, manifest) as session:
        return session.infer(IMAGES)


def test_fp32_answers_as_the_file_does(tmp_path: Path) -> None:
    manifest = artifact(tmp_path, "fp32")
    with OnnxRuntimeSession(tmp_path / "model.onnx", {}) as plain:
        assert np.allclose(answers(tmp_path, manifest), plain.infer(IMAGES), atol=1e-5)
    assert place_of(manifest) is Place.SIMULATED


def test_fp16_is_rounded_whether_or_not_the_file_is_in_it(tmp_path: Path) -> None:
    """TensorRT before 10.12 gets the float file and a flag; what it computes is float16 all the same."""
    (tmp_path / "flag").mkdir()
    (tmp_path / "types").mkdir()
    by_flag = answers(tmp_path / "flag", artifact(tmp_path / "flag", "fp16"))
    by_types = answers(tmp_path / "types", artifact(tmp_path / "types", "fp16", half=True))
    (tmp_path / "float").mkdir()
    exact = answers(tmp_path / "float", artifact(tmp_path / "float", "fp32"))
    assert np.array_equal(by_flag, by_types)
    difference = float(np.abs(by_flag - exact).max())
    assert 1e-6 < difference < 0.01 * float(np.ptp(exact))


def test_a_file_that_was_changed_is_not_opened(tmp_path: Path) -> None:
    manifest = artifact(tmp_path, "fp16")
    (tmp_path / "model.onnx").write_bytes(b"another")
    with pytest.raises(ManifestError, match="is not the model its manifest describes"):
        open_here(tmp_path, manifest)


def test_an_artifact_of_onnx_runtime_is_opened_as_on_the_device(tmp_path: Path) -> None:
    folder = write_tiny_package(tmp_path / "tiny").folder
    manifest = read_manifest(folder)
    assert place_of(manifest) is Place.HOST
    with open_here(folder, manifest) as session:
        assert session.input_shape == manifest.input_shape
