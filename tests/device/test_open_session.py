from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tiny_artifact import OPTIONS, write_tiny_artifact
from tiny_onnx import CLASSES, SIDE, write_float

from targets.device.errors import SessionError
from targets.device.model import onnxruntime_session as ort_session
from targets.device.model.manifest import ManifestError
from targets.device.model.onnxruntime_session import OnnxRuntimeSession, ort_options
from targets.device.open_session import open_session


def images(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(1).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)


@pytest.mark.parametrize("quantized", [False, True])
def test_it_answers_like_onnxruntime_alone(tmp_path: Path, quantized: bool) -> None:
    manifest = write_tiny_artifact(tmp_path, quantized=quantized)
    plain = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    expected = plain.run(None, {"images": images(5)})[0]
    with open_session(tmp_path, manifest) as session:
        answers = session.infer(images(5))
    assert answers.dtype == np.float32
    assert answers.shape == (5, CLASSES)
    np.testing.assert_allclose(answers, expected, atol=1e-5)


def test_many_images_are_run_in_parts(tmp_path: Path) -> None:
    """An integer network answers the same for an image whatever stands beside it."""
    manifest = write_tiny_artifact(tmp_path, quantized=True)
    batch = images(2 * ort_session.BATCH + 3)
    with open_session(tmp_path, manifest) as session:
        together = session.infer(batch)
        alone = np.concatenate([session.infer(image[None]) for image in batch])
        assert session.infer(batch[:0]).shape == (0, CLASSES)
    np.testing.assert_array_equal(together.argmax(1), alone.argmax(1))
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(np.zeros((1, 3, SIDE, SIDE)), id="float64"),
        pytest.param(np.zeros((1, 3, SIDE, SIDE + 1), np.float32), id="width"),
        pytest.param(np.zeros((3, SIDE, SIDE), np.float32), id="no batch"),
    ],
)
def test_wrong_images_are_refused_with_their_shape(
    tmp_path: Path, wrong: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> None:
    session = open_session(tmp_path, write_tiny_artifact(tmp_path))
    with pytest.raises(ValueError, match=r"input is float32 \[N, 3, 8, 8\]; got float"):
        session.infer(wrong)


def test_a_closed_session_says_so(tmp_path: Path) -> None:
    session = open_session(tmp_path, write_tiny_artifact(tmp_path))
    session.close()
    with pytest.raises(SessionError, match="closed"):
        session.infer(images(1))


def test_a_changed_model_is_not_opened(tmp_path: Path) -> None:
    manifest = write_tiny_artifact(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"something else")
    with pytest.raises(ManifestError, match="not the model"):
        open_session(tmp_path, manifest)


def test_an_older_runtime_is_refused_a_newer_one_is_not(tmp_path: Path) -> None:
    manifest = write_tiny_artifact(tmp_path)
    with pytest.raises(SessionError, match=r"is older than 99\.0\.0.*Install onnxruntime>=99\.0\.0"):
        open_session(tmp_path, replace(manifest, runtime_version="99.0.0"))
    open_session(tmp_path, replace(manifest, runtime_version="1.15.1")).close()


def test_another_runtime_is_refused(tmp_path: Path) -> None:
    manifest = write_tiny_artifact(tmp_path)
    with pytest.raises(SessionError, match="needs the runtime 'openvino'; this version supports onnxruntime and"):
        open_session(tmp_path, replace(manifest, runtime="openvino"))


def test_a_manifest_of_another_network_is_refused(tmp_path: Path) -> None:
    manifest = write_tiny_artifact(tmp_path)
    with pytest.raises(SessionError, match=r"and 4 classes; its manifest says \[3, 8, 8\] and 2"):
        open_session(tmp_path, replace(manifest, classes=("a", "b")))


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"something else")
    with pytest.raises(SessionError, match="cannot open"):
        OnnxRuntimeSession(tmp_path / "model.onnx", OPTIONS)


def test_a_network_without_fixed_size_is_refused(tmp_path: Path) -> None:
    model = onnx.load(write_float(tmp_path / "model.onnx").path)
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"
    onnx.save(model, tmp_path / "free.onnx")
    with pytest.raises(SessionError, match=r"expected images .* of a fixed size"):
        OnnxRuntimeSession(tmp_path / "free.onnx", OPTIONS)


def test_a_network_with_two_outputs_is_refused(tmp_path: Path) -> None:
    model = onnx.load(write_float(tmp_path / "model.onnx").path)
    model.graph.output.append(helper.make_tensor_value_info("fc.out", TensorProto.FLOAT, ["batch", CLASSES]))
    onnx.save(model, tmp_path / "two.onnx")
    with pytest.raises(SessionError, match="1 inputs and 2 outputs"):
        OnnxRuntimeSession(tmp_path / "two.onnx", OPTIONS)


def test_options_reach_the_runtime() -> None:
    made = ort_options({**OPTIONS, "intra_op_num_threads": 2, "execution_mode": "parallel", "enable_mem_pattern": 0})
    assert made.intra_op_num_threads == 2
    assert made.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert made.enable_mem_pattern is False
    assert made.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    "options", [{"threads": 1}, {"graph_optimization_level": "most"}, {"execution_mode": "random"}]
)
def test_unknown_options_are_refused(options: dict[str, str | int]) -> None:
    with pytest.raises(SessionError, match="is not supported by this version"):
        ort_options(options)
