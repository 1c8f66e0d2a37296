"""Tiny networks of every kind, quantized and exported by the real stages; each combination is made once a run."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import pytest
import torch
from onnx import ModelProto
from random_statistics import with_random_statistics
from torch import fx, nn

from pipeline.artifacts import Architecture, Checkpoint, Dialect, OnnxModel, Quantization
from pipeline.data.readers import Dataset, open_dataset
from pipeline.data.sampling import spread
from pipeline.export.export import export
from pipeline.export.result import read_export
from pipeline.models.checkpoint import save_network
from pipeline.models.resnet import build_resnet
from pipeline.models.zoo import Bottleneck, residual
from pipeline.progress import Silent
from pipeline.quantize.fake_quant import Mode, set_mode
from pipeline.quantize.marked_graph import export_marked
from pipeline.quantize.network import points_of, prepare, quantization_of
from pipeline.quantize.quantize import quantize
from pipeline.quantize.settings import QuantizeSettings
from pipeline.workplace import Data, Workplace
from targets.device.model.preprocess import Preprocessing

SIDE = 16
CLASSES = tuple("0123456789")
PREPROCESSING = Preprocessing(resize=None, crop=(SIDE, SIDE), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
SIZE = (SIDE, SIDE)
NETWORKS: dict[str, Architecture] = {
    "option A": residual(depths=(1, 1), stage_widths=(8, 16), classes=CLASSES, input_size=SIZE),
    "option B": residual(depths=(1, 2), stage_widths=(8, 16), shortcut="B", classes=CLASSES, input_size=SIZE),
    "bottleneck": residual(
        stem="imagenet",
        shortcut="B",
        depths=(2, 1),
        stage_widths=(8, 16),
        classes=CLASSES,
        input_size=SIZE,
        bottleneck=Bottleneck(),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Exported:
    original: Checkpoint
    quantized: Checkpoint
    models: dict[Dialect, OnnxModel]


EXPORTED: dict[tuple[str, tuple[str, ...]], Exported] = {}


@cache
def digits() -> Dataset:
    """A few of the embedded digits: 128 to train on, 64 to choose by."""
    full = open_dataset("digits")
    training = full.training.subset(spread(len(full.training), 128))
    selection = full.selection.subset(spread(len(full.selection), 64))
    return replace(full, training=training, selection=selection)


@cache
def float_network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return with_random_statistics(build_resnet(NETWORKS[kind]), seed=0)


def write_quantized(
    original: Checkpoint,
    folder: Path,
    *,
    qat_epochs: int = 0,
    weight_bits: Literal[7, 8] = 7,
    keep_float: tuple[str, ...] = (),
    seed: int = 0,
) -> Checkpoint:
    folder.mkdir(parents=True)
    quantize(
        original,
        original,
        Data(dataset=digits(), preprocessing=PREPROCESSING),
        QuantizeSettings(qat_epochs=qat_epochs, weight_bits=weight_bits, keep_float=keep_float, seed=seed),
        Workplace(folder=folder, progress=Silent()),
    )
    return Checkpoint(folder=folder)


def write_export(
    checkpoint: Checkpoint, folder: Path, dialects: tuple[Dialect, ...] = tuple(Dialect)
) -> dict[Dialect, OnnxModel]:
    folder.mkdir(parents=True)
    export(checkpoint, digits(), PREPROCESSING, dialects=dialects, progress=Silent(), folder=folder)
    return read_export(folder)


def exported(kind: str, factory: pytest.TempPathFactory, *, keep_float: tuple[str, ...] = ()) -> Exported:
    """The network in every dialect; weights of 7 bits, which every CPU's kernels add up exactly."""
    if (kind, keep_float) not in EXPORTED:
        folder = factory.mktemp("exported")
        original = write_original(kind, folder / "original")
        quantized = write_quantized(original, folder / "quantized", keep_float=keep_float)
        models = write_export(quantized, folder / "export")
        EXPORTED[kind, keep_float] = Exported(original=original, quantized=quantized, models=models)
    return EXPORTED[kind, keep_float]


def write_original(kind: str, folder: Path) -> Checkpoint:
    save_network(float_network(kind), NETWORKS[kind], folder)
    return Checkpoint(folder=folder)


def calibrated(
    network: nn.Module, *, weight_bits: Literal[7, 8] = 8, keep_float: tuple[str, ...] = (), side: int = SIDE
) -> fx.GraphModule:
    """Any network with its points calibrated on noise, in ONNX Runtime's mode."""
    graph_module = prepare(network, weight_bits=weight_bits, keep_float=keep_float)
    set_mode(graph_module, Mode.CALIBRATE)
    with torch.no_grad():
        graph_module(noise(16, side))
    for point in points_of(graph_module):
        point.range = point.histogram.best_range(post_relu=point.post_relu)
    set_mode(graph_module, Mode.ONNXRUNTIME)
    return graph_module


def marked(
    network: nn.Module, *, keep_float: tuple[str, ...] = (), side: int = SIDE
) -> tuple[ModelProto, Quantization]:
    """The marked export of any network, and its parameters."""
    graph_module = calibrated(network, keep_float=keep_float, side=side)
    quantization = quantization_of(graph_module, weight_bits=8, float_layers=keep_float)
    return export_marked(graph_module, (3, side, side)), quantization


def noise(count: int, side: int = SIDE, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))
