"""Measuring an artifact: a real ONNX model in a real session, against the same sums done by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pipeline.artifacts import AccuracyReport, Place, Verdict
from pipeline.cli.subject import open_subject
from pipeline.cli.validate import judge_again, measure_accuracy
from pipeline.data.readers import Dataset, ImageSet, open_dataset
from pipeline.errors import CompileError, DataError
from pipeline.progress import Silent
from pipeline.validate.judge import Terms
from pipeline.validate.measure import measure_artifact
from pipeline.validate.predictions import Predictions, read_predictions, write_predictions
from pipeline.validate.shard import pack_shard
from targets.device.files import PREDICTIONS, SHARD
from targets.device.gate.run import MeasureError, measure
from targets.device.gate.shard import Shard
from targets.device.model.image_files import ImageError, decode
from targets.device.model.manifest import Manifest, sha256_of
from targets.device.model.preprocess import Preprocessing, preprocess

Array = NDArray[np.float32]
PREPROCESSING = Preprocessing(resize=None, crop=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 1.0))


def validate(artifact: Path, *, shard: Path | None = None, max_drop: float, gate_looks: int) -> AccuracyReport:
    with open_subject(str(artifact), progress=Silent()) as subject:
        return judge_again(
            subject,
            shard or artifact / SHARD,
            terms=Terms(max_drop=max_drop, gate_looks=gate_looks),
            progress=Silent(),
        )


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """The embedded digits with a gate of 300 images."""
    whole = open_dataset("digits")
    return replace(whole, gate=whole.gate.subset(range(300)))


@pytest.fixture(scope="module")
def weights(digits: Dataset) -> Array:
    """A linear classifier of digits by ridge regression: [3072 + 1, 10], right on most of them."""
    inputs = pixels_of(digits.training)
    wanted = np.eye(10)[digits.training.labels]
    kernel = inputs @ inputs.T + 100 * np.eye(len(inputs))
    return (inputs.T @ np.linalg.solve(kernel, wanted)).astype(np.float32)


@pytest.fixture(scope="module")
def float_logits(digits: Dataset, weights: Array) -> Array:
    return (pixels_of(digits.gate) @ weights).astype(np.float32)


def pixels_of(images: ImageSet) -> Array:
    """Preprocessed images as rows, with a last column of ones for the bias."""
    rows = [preprocess(decode(images.encoded(index)), PREPROCESSING).ravel() for index in range(len(images))]
    return np.hstack([np.stack(rows), np.ones((len(images), 1), np.float32)])


def write_artifact(folder: Path, weights: Array, **changes: object) -> Path:
    """An artifact folder whose model computes images @ weights; `changes` go to its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["images"], ["rows"]),
            helper.make_node("Gemm", ["rows", "weights", "bias"], ["logits"]),
        ],
        "linear",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(weights[:-1], "weights"), numpy_helper.from_array(weights[-1], "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    manifest = Manifest(
        schema=1,
        name="digits",
        version="0.1.0",
        target="cpu",
        runtime="onnxruntime",
        runtime_version=onnxruntime.__version__,
        model_file="model.onnx",
        model_sha256=sha256_of(folder / "model.onnx"),
        precision="fp32",
        weight_bits=None,
        input_shape=(3, 32, 32),
        classes=tuple("0123456789"),
        preprocessing=PREPROCESSING,
        session_options={"intra_op_num_threads": 1},
        instruction_set="avx2",
        tolerance=1e-4,
    )
    replace(manifest, **changes).write(folder)  # type: ignore[arg-type]
    return folder


@pytest.fixture
def artifact(weights: Array, tmp_path: Path) -> Path:
    """A published artifact: 8 % of its weights are set to zero against the float baseline of the shard beside it."""
    thinned = weights.copy()
    thinned[np.random.default_rng(0).random(len(weights)) < 0.08] = 0
    return write_artifact(tmp_path / "artifact", thinned)


@pytest.fixture
def shard(digits: Dataset, float_logits: Array, artifact: Path) -> Path:
    pack_shard(
        digits.gate,
        float_logits,
        classes=digits.classes,
        preprocessing=PREPROCESSING,
        progress=Silent(),
        folder=artifact,
    )
    return artifact / SHARD


class Counting:
    """A session that notes the size of every question, and answers with the first ten pixels."""

    def __init__(self, *, classes: int = 10) -> None:
        self.sizes: list[int] = []
        self._classes = classes

    def infer(self, images: Array) -> Array:
        self.sizes.append(len(images))
        assert images.dtype == np.float32
        return images.reshape(len(images), -1)[:, 300 : 300 + self._classes]


def test_logits_are_those_of_the_model_on_the_devices_preprocessing(
    artifact: Path, shard: Path, digits: Dataset, tmp_path: Path
) -> None:
    measure_artifact(artifact, shard, tmp_path, progress=Silent())
    predictions = read_predictions(tmp_path / PREDICTIONS)
    model = onnx.load(artifact / "model.onnx")
    kernel, bias = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    expected = pixels_of(digits.gate)[:, :-1] @ kernel + bias
    np.testing.assert_allclose(predictions.logits, expected, rtol=1e-3, atol=1e-4)
    assert predictions.artifact_sha256 == sha256_of(artifact / "model.onnx")
    assert predictions.runtime == f"onnxruntime {onnxruntime.__version__}"
    with Shard(shard) as read:
        assert predictions.shard_sha256 == read.sha256


def test_equal_work_gives_equal_bytes(artifact: Path, shard: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        measure_artifact(artifact, shard, tmp_path / name, progress=Silent())
    assert (tmp_path / "one" / PREDICTIONS).read_bytes() == (tmp_path / "two" / PREDICTIONS).read_bytes()


def test_images_are_asked_about_in_small_batches_and_in_order(digits: Dataset) -> None:
    images = digits.gate.subset(range(70))
    session, heard = Counting(), list[int]()
    logits = measure(images, session, preprocessing=PREPROCESSING, classes=10, batch=32, advance=heard.append)
    assert session.sizes == [32, 32, 6]
    assert heard == session.sizes
    np.testing.assert_array_equal(logits, pixels_of(images)[:, 300:310])


def test_an_answer_of_another_shape_is_refused(digits: Dataset) -> None:
    images = digits.gate.subset([0, 1])
    with pytest.raises(MeasureError, match=r"2 images of 10 classes.*\[2, 9\]"):
        measure(images, Counting(classes=9), preprocessing=PREPROCESSING, classes=10)


def test_an_image_that_cannot_be_decoded_is_named(digits: Dataset) -> None:
    def read(index: int) -> bytes:
        return digits.gate.encoded(index) if index != 1 else b"not an image"

    images = ImageSet(read=read, digests=["a", "b"], names=["a", "b"], labels=np.array([0, 1]))
    with pytest.raises(ImageError, match="image 1 "):
        measure(images, Counting(), preprocessing=PREPROCESSING, classes=10)


def test_validate_again_gives_the_gates_report(artifact: Path, shard: Path, digits: Dataset) -> None:
    report = validate(artifact, max_drop=5.0, gate_looks=3)
    with Shard(shard) as read:
        float_right = read.logits.argmax(axis=1) == read.labels
    assert report.place is Place.HOST
    assert report.target == "cpu"
    assert report.images == 300
    assert report.gate_looks == 3
    assert report.float_top1 == pytest.approx(float_right.mean())
    assert report.float_top1 > 0.85
    assert report.artifact_top1 == pytest.approx(report.float_top1 - report.drop_points / 100)
    assert report.flip_rate > 0
    assert report.verdict is Verdict.PASS
    elsewhere = shard.rename(artifact.parent / "elsewhere.zip")
    assert validate(artifact, shard=elsewhere, max_drop=5.0, gate_looks=3) == report


def test_other_images_give_accuracy_but_no_verdict(artifact: Path, shard: Path, digits: Dataset) -> None:
    report = validate(artifact, max_drop=5.0, gate_looks=1)
    with open_subject(str(artifact), progress=Silent()) as subject:
        accuracy = measure_accuracy(subject, digits, progress=Silent())
    assert (accuracy.images, accuracy.top5) == (300, None)
    assert accuracy.top1 == report.artifact_top1
    renamed = replace(digits, classes=tuple("abcdefghij"))
    with open_subject(str(artifact), progress=Silent()) as subject, pytest.raises(DataError, match="same classes"):
        measure_accuracy(subject, renamed, progress=Silent())


def remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


def shorten(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-20])


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda folder: remove(folder, "manifest.json"), CompileError, "is not an artifact"),
        (lambda folder: remove(folder, "model.onnx"), CompileError, "has no model file"),
        (lambda folder: shorten(folder, "model.onnx"), CompileError, "not the model its manifest describes"),
        (lambda folder: remove(folder, SHARD), DataError, "no shard"),
        (lambda folder: shorten(folder, SHARD), DataError, "truncated or damaged"),
    ],
)
def test_damaged_artifacts_are_refused(
    artifact: Path, shard: Path, damage: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    damage(artifact)
    with pytest.raises(error, match=message):
        validate(artifact, max_drop=1.0, gate_looks=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": tuple("9876543210")}, "has the classes"),
        ({"preprocessing": replace(PREPROCESSING, color="bgr")}, "was made with"),
    ],
)
def test_the_shard_of_another_model_is_refused(
    weights: Array, shard: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    other = write_artifact(tmp_path / "other", weights, **changes)
    with pytest.raises(DataError, match=message):
        validate(other, shard=shard, max_drop=1.0, gate_looks=1)


def test_an_artifact_that_answers_nonsense_is_refused(weights: Array, shard: Path, tmp_path: Path) -> None:
    broken = weights.copy()
    broken[-1, 4] = np.nan
    other = write_artifact(tmp_path / "other", broken)
    with pytest.raises(CompileError, match="300 of 300 images are not finite"):
        validate(other, shard=shard, max_drop=1.0, gate_looks=1)


def test_predictions_cut_short_or_missing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / PREDICTIONS
    with pytest.raises(DataError, match=r"predictions .* do not exist"):
        read_predictions(path)
    write_predictions(
        path,
        Predictions(
            logits=np.zeros((5, 3), np.float32),
            shard_sha256="a",
            artifact_sha256="b",
            instruction_set="c",
            runtime="d",
        ),
    )
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 23):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="damaged"):
            read_predictions(path)
