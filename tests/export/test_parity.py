"""The parity check passes right files whatever the network, and finds and names what is planted into them."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from planted_faults import Fault, faults_of
from random_networks import random_network
from random_statistics import with_random_statistics
from tiny_quantized import CLASSES, NETWORKS, PREPROCESSING, Exported, calibrated, digits, exported, noise
from torch import fx

from pipeline.artifacts import Checkpoint, Dialect, Parity
from pipeline.data.sampling import pixels_of
from pipeline.errors import ExportError
from pipeline.export.parity import FLOAT_ERRORS, TOLERANCE, check_parity, parity_images
from pipeline.export.result import parity_text
from pipeline.models.checkpoint import build_network, load_checkpoint
from pipeline.models.resnet import build_resnet
from pipeline.models.zoo import published_architecture
from pipeline.quantize.marked_graph import export_marked
from pipeline.quantize.network import build_quantized, quantization_of
from targets.device.model.preprocess import normalize
from targets.dialects.write import write_dialect

INTEGER = (Dialect.ONNXRUNTIME, Dialect.TENSORRT)
Images = NDArray[np.float32]


@pytest.fixture(scope="module")
def images() -> Images:
    return normalize(pixels_of(digits().selection, range(40), PREPROCESSING), PREPROCESSING)


@pytest.fixture
def files(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported("option A", tmp_path_factory)


def scaled(*names: str, factor: float = 2) -> Callable[[ModelProto], None]:
    def tamper(model: ModelProto) -> None:
        found = [tensor for tensor in model.graph.initializer if tensor.name in names]
        assert len(found) == len(names)
        for tensor in found:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))

    return tamper


@pytest.mark.parametrize(
    ("dialect", "tamper", "named"),
    [
        pytest.param(Dialect.FLOAT, scaled("layer1.0.conv1.bias"), "logits", id="float bias"),
        pytest.param(Dialect.FLOAT, scaled("layer2.0.conv2.weight", factor=1.001), "logits", id="float weight"),
        pytest.param(
            Dialect.ONNXRUNTIME, scaled("layer2.0.conv2.weight.scale"), r"layer2\.0\.conv2: ", id="weight scale alone"
        ),
        pytest.param(
            Dialect.ONNXRUNTIME, scaled("fc.weight.scale", "fc.bias.scale"), "fc: the logits", id="both scales"
        ),
        pytest.param(Dialect.ONNXRUNTIME, scaled("layer2.0.conv1.bias.scale"), r"layer2\.0\.conv1: ", id="bias scale"),
        pytest.param(
            Dialect.ONNXRUNTIME, scaled("layer1.0.add.scale", factor=0.2), r"layer1\.0\.add: ", id="activation scale"
        ),
        pytest.param(
            Dialect.TENSORRT,
            scaled("layer2.0.conv2.weight.scale"),
            r"layer2\.0\.add \(by layer2\.0\.conv2\): ",
            id="tensorrt weight scale",
        ),
        pytest.param(Dialect.TENSORRT, scaled("layer2.0.conv1.bias"), r"layer2\.0\.conv1: ", id="tensorrt bias"),
    ],
)
def test_a_file_with_a_changed_number_is_refused(
    dialect: Dialect, tamper: Callable[[ModelProto], None], named: str, files: Exported, images: Images, tmp_path: Path
) -> None:
    network = build_quantized(files.quantized)
    path = tmp_path / "tampered.onnx"
    model = onnx.load(files.models[dialect].path)
    onnx.save(model, path)
    check_parity(network, path, dialect, images)
    tamper(model)
    onnx.save(model, path)
    pattern = rf"tampered\.onnx.* does not compute the same as PyTorch.*\s.*{named}"
    with pytest.raises(ExportError, match=pattern) as caught:
        check_parity(network, path, dialect, images)
    assert caught.value.exit_code == 8


@pytest.mark.parametrize("dialect", INTEGER)
def test_every_kind_of_fault_is_found_and_named(
    dialect: Dialect, files: Exported, images: Images, tmp_path: Path
) -> None:
    """One of each kind; all places are planted in the long tests below."""
    model = onnx.load(files.models[dialect].path)
    first = {fault.kind: fault for fault in faults_of(model)[1:]}
    assert len(first) == 7
    found, missed = planted(build_quantized(files.quantized), model, dialect, images, tmp_path, list(first.values()))
    assert found == 7, missed


@pytest.mark.long
@pytest.mark.parametrize("dialect", INTEGER)
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_fault_at_every_place_is_found_and_named(
    kind: str, dialect: Dialect, images: Images, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    files = exported(kind, tmp_path_factory)
    model = onnx.load(files.models[dialect].path)
    faults = faults_of(model)
    found, missed = planted(build_quantized(files.quantized), model, dialect, images, tmp_path, faults)
    assert found == len(faults) > 40, missed


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dialect", INTEGER)
@pytest.mark.parametrize(
    "name", ["resnet20-jpeg.pth", "resnet56-jpeg.pth", "resnet50-thin-imagenette.pth", "resnet18", "resnet50"]
)
def test_faults_in_real_networks_are_found_and_named(
    name: str, dialect: Dialect, data_root: Path, tmp_path: Path
) -> None:
    """Of each kind three, spread over the depth of the network; ResNet-18 and -50 at full width, of random weights."""
    network, side = real_network(name, data_root, tmp_path / "checkpoint")
    quantization = quantization_of(network, weight_bits=7, float_layers=())
    model = write_dialect(export_marked(network, (3, side, side)), quantization, dialect)
    images = noise(2, side, seed=1).numpy()
    path = tmp_path / f"{dialect}.onnx"
    onnx.save(model, path)
    parity = check_parity(network, path, dialect, images)
    assert parity.largest_distance <= 0.5 + TOLERANCE / 10
    by_kind: dict[str, list[Fault]] = {}
    for fault in faults_of(model):
        by_kind.setdefault(fault.kind, []).append(fault)
    chosen = [each[index] for each in by_kind.values() for index in {0, len(each) // 2, len(each) - 1}]
    found, missed = planted(network, model, dialect, images, tmp_path, chosen)
    assert found == len(chosen) >= 18, missed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_random_right_network_passes(seed: int, tmp_path: Path) -> None:
    passes_in_every_dialect(seed, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_a_hundred_random_right_networks_pass(tmp_path: Path) -> None:
    largest = max(passes_in_every_dialect(seed, tmp_path) for seed in range(100, 200))
    assert largest < 0.5 + TOLERANCE / 2


def test_what_is_compared_and_said(files: Exported, images: Images) -> None:
    network = build_quantized(files.quantized)
    parities = {dialect: check_parity(network, files.models[dialect].path, dialect, images) for dialect in Dialect}
    assert {parity.images for parity in parities.values()} == {40}
    points = {
        dialect: sum(node.op_type == "QuantizeLinear" for node in onnx.load(files.models[dialect].path).graph.node)
        for dialect in Dialect
    }
    assert {dialect: parity.tensors for dialect, parity in parities.items()} == points
    assert points[Dialect.ONNXRUNTIME] > points[Dialect.TENSORRT] > points[Dialect.FLOAT] == 0
    assert all(parity.is_undisturbed and parity.logit_range > 1 for parity in parities.values())
    assert 0 < parities[Dialect.FLOAT].float_error < FLOAT_ERRORS / 5
    assert "equal up to rounding at 11 tensors on 40 images" in parity_text(parities[Dialect.ONNXRUNTIME])
    assert "times the error of PyTorch's float32" in parity_text(parities[Dialect.FLOAT])


def test_a_file_whose_nodes_are_fused_otherwise_says_so(files: Exported) -> None:
    parity = files.models[Dialect.ONNXRUNTIME].parity
    disturbed = Parity(**{**vars(parity), "is_undisturbed": False})
    assert parity_text(disturbed).startswith(parity_text(parity))
    assert "fuses other nodes" in parity_text(disturbed)


def test_a_file_that_does_not_open_is_refused(files: Exported, images: Images, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(files.models[Dialect.FLOAT].path.read_bytes()[:2000])
    with pytest.raises(ExportError, match=r"cannot open .*broken\.onnx"):
        check_parity(build_quantized(files.quantized), tmp_path / "broken.onnx", Dialect.FLOAT, images)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", Dialect)
def test_a_file_of_another_network_is_refused(
    dialect: Dialect, files: Exported, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = build_quantized(exported("option B", tmp_path_factory).quantized)
    with pytest.raises(ExportError, match="does not compute the same as PyTorch"):
        check_parity(other, files.models[dialect].path, dialect, images)


@pytest.mark.parametrize("dialect", Dialect)
def test_numbers_that_are_none_are_refused(dialect: Dialect, files: Exported, images: Images, tmp_path: Path) -> None:
    model = onnx.load(files.models[dialect].path)
    name = "fc.bias.scale" if dialect is Dialect.ONNXRUNTIME else "fc.bias"
    scaled(name, factor=float("nan"))(model)
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(ExportError, match="does not compute the same as PyTorch"):
        check_parity(build_quantized(files.quantized), tmp_path / "nan.onnx", dialect, images)


def test_how_many_images_are_compared() -> None:
    assert parity_images((224, 224)) == 16
    assert parity_images((32, 32)) == 64
    assert parity_images((448, 448)) == 4


def planted(
    network: fx.GraphModule, model: ModelProto, dialect: Dialect, images: Images, folder: Path, faults: Sequence[Fault]
) -> tuple[int, list[str]]:
    """How many faults are found and named first, and what was said of the others."""
    missed, path = [], folder / "planted.onnx"
    for fault in faults:
        changed = ModelProto()
        changed.CopyFrom(model)
        fault.plant(changed)
        onnx.save(changed, path)
        try:
            check_parity(network, path, dialect, images)
            missed.append(f"{fault.kind} at {fault.place}: passed")
        except ExportError as error:
            first = str(error).split("\n")[min(1, str(error).count("\n"))]
            if not any(re.search(rf"\b{re.escape(name)}\b", first) for name in fault.names):
                missed.append(f"{fault.kind} at {fault.place}: {first}")
    return len(faults) - len(missed), missed


def passes_in_every_dialect(seed: int, folder: Path) -> float:
    """The largest distance of its integers."""
    made = random_network(seed)
    distances = []
    for dialect in Dialect:
        path = folder / f"{seed}-{dialect}.onnx"
        onnx.save(write_dialect(made.marked, made.quantization, dialect), path)
        distances.append(check_parity(made.network, path, dialect, made.images.numpy()).largest_distance)
    return max(distances)


def real_network(name: str, data_root: Path, folder: Path) -> tuple[fx.GraphModule, int]:
    if name.endswith(".pth"):
        side = 224 if "imagenette" in name else 32
        source = data_root / "checkpoints" / name
        load_checkpoint(source, factory=None, classes=CLASSES, input_size=(side, side), folder=folder)
        network = build_network(Checkpoint(folder=folder))
    else:
        side = 224
        torch.manual_seed(0)
        network = with_random_statistics(build_resnet(published_architecture(name, classes=CLASSES)), seed=0)
    return calibrated(network, weight_bits=7, side=side), side
