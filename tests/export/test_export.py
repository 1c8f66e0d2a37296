"""An exported file computes what PyTorch computes, or there is no file."""

import sys
import sysconfig
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
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

from pipeline.artifacts import Dialect, Precision
from pipeline.data.sampling import pixels_of
from pipeline.errors import ExportError
from pipeline.export import parity
from pipeline.export.parity import MODES, TOLERANCE
from pipeline.models.checkpoint import build_network
from pipeline.quantize.fake_quant import set_mode
from pipeline.quantize.network import build_quantized
from pipeline.workspace.hashing import sha256_of_folder
from targets.device.model.onnxruntime_session import OnnxRuntimeSession
from targets.device.model.preprocess import normalize


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
        assert model.parity.max_abs_difference < 1e-4 * model.parity.logit_range
        assert model.parity.largest_distance < 0.5 + TOLERANCE / 10
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


@pytest.mark.slow
def test_exporting_again_gives_the_same_bytes_and_names_no_machine(files: Exported, tmp_path: Path) -> None:
    write_export(files.quantized, tmp_path / "again")
    assert sha256_of_folder(tmp_path / "again") == sha256_of_folder(files.models[Dialect.FLOAT].path.parent)
    places = [str(tmp_path), str(Path.cwd()), str(Path.home()), sys.prefix, sysconfig.get_path("purelib")]
    for file in (tmp_path / "again").iterdir():
        content = file.read_bytes()
        assert not [place for place in places if place != "/" and place.encode() in content]
        assert b"site-packages" not in content
        assert b".py" not in content


@pytest.mark.slow
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


@pytest.mark.slow
def test_it_cannot_be_written_in_integers(tmp_path: Path) -> None:
    original = write_original("option A", tmp_path / "original")
    with pytest.raises(ExportError, match="the network is not quantized"):
        write_export(original, tmp_path / "export", (Dialect.ONNXRUNTIME,))
    assert not list((tmp_path / "export").glob("export.json"))


@pytest.mark.slow
def test_a_file_that_differs_ends_the_export(files: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Below what the order of sums alone makes of logits.
    monkeypatch.setattr(parity, "FLOAT_ERRORS", 1e-3)
    with pytest.raises(ExportError, match=r"float\.onnx does not compute the same as PyTorch"):
        write_export(files.quantized, tmp_path / "export", (Dialect.FLOAT,))
    assert not (tmp_path / "export" / "export.json").exists()
