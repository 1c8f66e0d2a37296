"""An exported file computes what PyTorch computes, or there is no file."""

import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from tiny_quantized import (
    NETWORKS,
    PREPROCESSING,
    Exported,
    digits,
    exported,
    noise,
    write_export,
    write_original,
)
from torch import fx

from pipeline import export as stage
from pipeline.artifacts import Dialect, Parity, Precision
from pipeline.checkpoint import build_network
from pipeline.errors import ExportError
from pipeline.export import MODES, check_parity, compare, measure_parity
from pipeline.fakequant import set_mode
from pipeline.hashing import sha256_of_folder
from pipeline.quantized import build_quantized
from pipeline.selection import pixels_of
from targets.device.ort_session import OnnxRuntimeSession
from targets.device.preprocess import normalize

Logits = NDArray[np.float32]
GOOD = Parity(
    images=9,
    max_abs_difference=0.1,
    mean_abs_difference=0.001,
    logit_range=10,
    argmax_agreement=1,
    clear_agreement=1,
)


@pytest.fixture
def files(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported("option A", tmp_path_factory)


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return normalize(pixels_of(digits().selection, range(40), PREPROCESSING), PREPROCESSING)


def in_mode(network: fx.GraphModule, dialect: Dialect) -> fx.GraphModule:
    set_mode(network, MODES[dialect])
    return network


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_dialect_computes_what_pytorch_computes(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    files = exported(kind, tmp_path_factory)
    assert set(files.models) == set(Dialect)
    for dialect, model in files.models.items():
        assert model.path.name == f"{dialect}.onnx"
        assert model.parity.images == len(digits().selection)
        assert model.parity.logit_range > 1
        assert model.parity.clear_agreement == 1
        assert model.parity.mean_abs_difference < 1e-3 * model.parity.logit_range
        onnx.checker.check_model(onnx.load(model.path), full_check=True)
    assert files.models[Dialect.FLOAT].precision is Precision.FP32
    assert {files.models[dialect].precision for dialect in Dialect if dialect is not Dialect.FLOAT} == {Precision.INT8}


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("count", [1, 7])
def test_the_batch_is_free(count: int, dialect: Dialect, files: Exported, images: NDArray[np.float32]) -> None:
    level = "disable" if dialect is Dialect.TENSORRT else "all"
    session = OnnxRuntimeSession(files.models[dialect].path, {"graph_optimization_level": level})
    network = in_mode(build_quantized(files.quantized), dialect)
    wanted = network(torch.from_numpy(images[:count])).detach().numpy()
    found = session.infer(images[:count])
    assert found.shape == (count, 10)
    assert np.abs(found - wanted).mean() < 2e-3 * np.ptp(wanted)
    alone = np.concatenate([session.infer(image[None]) for image in images[:count]])
    np.testing.assert_allclose(found, alone, atol=1e-4 * np.ptp(wanted))


def test_the_dialects_are_not_one_and_the_same(files: Exported, images: NDArray[np.float32]) -> None:
    """Else the comparisons above would prove less than they seem to."""
    network, batch = build_quantized(files.quantized), torch.from_numpy(images)
    answers = [in_mode(network, dialect)(batch).detach() for dialect in Dialect]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (answers[first] - answers[second]).abs().mean() > 1e-3


def scaled(*names: str, factor: float = 2) -> Callable[[ModelProto], None]:
    def tamper(model: ModelProto) -> None:
        found = [tensor for tensor in model.graph.initializer if tensor.name in names]
        assert len(found) == len(names)
        for tensor in found:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))

    return tamper


@pytest.mark.parametrize(
    ("dialect", "tamper"),
    [
        pytest.param(Dialect.FLOAT, scaled("layer1.0.conv1.bias"), id="float bias"),
        pytest.param(Dialect.FLOAT, scaled("layer2.0.conv2.weight"), id="float weight"),
        pytest.param(Dialect.ONNXRUNTIME, scaled("layer2.0.conv2.weight.scale"), id="weight scale alone"),
        pytest.param(Dialect.ONNXRUNTIME, scaled("fc.weight.scale", "fc.bias.scale"), id="both scales"),
        pytest.param(Dialect.ONNXRUNTIME, scaled("layer2.0.conv1.bias.scale"), id="bias scale"),
        pytest.param(Dialect.ONNXRUNTIME, scaled("layer1.0.add.scale", factor=0.2), id="activation scale"),
        pytest.param(Dialect.TENSORRT, scaled("layer2.0.conv2.weight.scale"), id="tensorrt weight scale"),
        pytest.param(Dialect.TENSORRT, scaled("layer2.0.conv1.bias"), id="tensorrt bias"),
    ],
)
def test_a_file_with_a_changed_number_is_refused(
    dialect: Dialect,
    tamper: Callable[[ModelProto], None],
    files: Exported,
    images: NDArray[np.float32],
    tmp_path: Path,
) -> None:
    network = build_quantized(files.quantized)
    path = tmp_path / "tampered.onnx"
    model = onnx.load(files.models[dialect].path)
    onnx.save(model, path)
    check_parity(measure_parity(network, path, dialect, images), path, dialect)
    tamper(model)
    onnx.save(model, path)
    with pytest.raises(ExportError, match=r"tampered\.onnx does not compute what PyTorch computes") as caught:
        check_parity(measure_parity(network, path, dialect, images), path, dialect)
    assert caught.value.exit_code == 8


def test_a_file_that_does_not_open_is_refused(files: Exported, images: NDArray[np.float32], tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(files.models[Dialect.FLOAT].path.read_bytes()[:2000])
    with pytest.raises(ExportError, match=r"cannot open .*broken\.onnx"):
        measure_parity(build_quantized(files.quantized), tmp_path / "broken.onnx", Dialect.FLOAT, images)


def test_exporting_again_gives_the_same_bytes_and_names_no_machine(files: Exported, tmp_path: Path) -> None:
    write_export(files.quantized, tmp_path / "again")
    assert sha256_of_folder(tmp_path / "again") == sha256_of_folder(files.models[Dialect.FLOAT].path.parent)
    places = [str(tmp_path), str(Path.cwd()), str(Path.home()), sys.prefix, sysconfig.get_path("purelib")]
    for file in (tmp_path / "again").iterdir():
        content = file.read_bytes()
        assert not [place for place in places if place != "/" and place.encode() in content]
        assert b"site-packages" not in content
        assert b".py" not in content


def test_a_network_that_was_never_quantized_is_written_in_float(tmp_path: Path) -> None:
    original = write_original("option B", tmp_path / "original")
    models = write_export(original, tmp_path / "export", (Dialect.FLOAT,))
    assert {file.name for file in (tmp_path / "export").iterdir()} == {"float.onnx", "export.json"}
    model = models[Dialect.FLOAT]
    assert model.float_layers[0] == "conv1"
    assert "layer2.0.downsample.0" in model.float_layers
    found = OnnxRuntimeSession(model.path, {}).infer(noise(3).numpy())
    wanted = build_network(original)(noise(3)).detach().numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.ptp(wanted))


def test_it_cannot_be_written_in_integers(tmp_path: Path) -> None:
    original = write_original("option A", tmp_path / "original")
    with pytest.raises(ExportError, match="the network is not quantized"):
        write_export(original, tmp_path / "export", (Dialect.ONNXRUNTIME,))
    assert not list((tmp_path / "export").glob("export.json"))


def test_a_file_that_differs_ends_the_export(files: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Below what the order of sums alone makes of logits.
    monkeypatch.setattr(stage, "FLOAT_MEAN", 1e-12)
    with pytest.raises(ExportError, match=r"float\.onnx does not compute what PyTorch computes"):
        write_export(files.quantized, tmp_path / "export", (Dialect.FLOAT,))
    assert not (tmp_path / "export" / "export.json").exists()


def test_the_figures_of_a_comparison() -> None:
    wanted = np.array([[10, 0], [0, 10], [5, 5.2], [10, 0]], np.float32)
    found = np.array([[10, 0.4], [0, 10], [5.2, 5], [10, 0]], np.float32)
    parity = compare(wanted, found)
    assert (parity.images, parity.logit_range, parity.argmax_agreement) == (4, 10, 0.75)
    assert parity.max_abs_difference == pytest.approx(0.4)
    assert parity.mean_abs_difference == pytest.approx(0.1)
    # The third image is a close call: it may fall either way.
    assert parity.clear_agreement == 1
    found[0] = [0, 10]
    assert compare(wanted, found).clear_agreement == pytest.approx(2 / 3)


def test_comparisons_at_the_edges() -> None:
    same = np.ones((3, 1), np.float32)
    assert compare(same, same).clear_agreement == 1
    undecided = np.ones((3, 2), np.float32)
    assert compare(undecided, undecided).clear_agreement == 1
    with pytest.raises(ExportError, match=r"answers \[3, 1\], PyTorch \[3, 2\]"):
        compare(undecided, same)


@pytest.mark.parametrize(
    ("dialect", "parity", "passes"),
    [
        pytest.param(Dialect.ONNXRUNTIME, GOOD, True, id="rounding"),
        pytest.param(Dialect.FLOAT, GOOD, False, id="rounding where there is none"),
        pytest.param(Dialect.FLOAT, replace(GOOD, mean_abs_difference=1e-5), True, id="another order of sums"),
        pytest.param(Dialect.TENSORRT, replace(GOOD, mean_abs_difference=1.0), False, id="more than rounding"),
        pytest.param(Dialect.TENSORRT, replace(GOOD, clear_agreement=0.9), False, id="clear images disagree"),
        pytest.param(Dialect.TENSORRT, replace(GOOD, argmax_agreement=0.9), True, id="close calls disagree"),
        pytest.param(Dialect.ONNXRUNTIME, replace(GOOD, mean_abs_difference=np.nan), False, id="not a number"),
    ],
)
def test_what_passes_as_rounding(dialect: Dialect, parity: Parity, passes: bool) -> None:
    if passes:
        check_parity(parity, Path("model.onnx"), dialect)
    else:
        with pytest.raises(ExportError, match=r"model\.onnx does not compute .* 9 images"):
            check_parity(parity, Path("model.onnx"), dialect)


def test_logits_that_are_no_numbers_fail() -> None:
    wanted = np.eye(4, dtype=np.float32)
    found = wanted.copy()
    found[2, 2] = np.nan
    with pytest.raises(ExportError):
        check_parity(compare(wanted, found), Path("model.onnx"), Dialect.ONNXRUNTIME)
