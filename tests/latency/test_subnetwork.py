"""Cut out of the graph or pruned and exported anew: the runtime gets the same shapes."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import ModelProto
from tiny_networks import GROUPED, network_of
from torch import nn

from pipeline.artifacts import Architecture, Checkpoint, Dialect, Quantization
from pipeline.errors import CompressionError
from pipeline.latency.profile import subject_of
from pipeline.latency.subnetwork import Subnetwork, cut_subnetwork, removable_blocks, sites
from pipeline.models.checkpoint import save_network
from pipeline.models.folding import trace_folded
from pipeline.models.surgery import channel_groups, remove_blocks, remove_channels
from pipeline.models.zoo import residual
from pipeline.quantize.marked_graph import export_marked
from targets.dialects.write import write_dialect
from targets.runtimes.onnxruntime.runtime import OnnxRuntimeCpu
from targets.target import find_target

BASIC = residual(depths=(2, 3, 1), stage_widths=(8, 16, 16), classes=("a", "b", "c"), input_size=(16, 16))


def described(model: ModelProto) -> list[tuple[str, list[int], list[tuple[str, list[int]]]]]:
    """Operators in order, with the shapes of the constants they read and what they are told."""
    sizes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    return [
        (
            node.op_type,
            [size for name in node.input for size in sizes.get(name, [])],
            sorted((a.name, list(a.ints) or [a.i]) for a in node.attribute),
        )
        for node in model.graph.node
    ]


@pytest.mark.parametrize(
    ("architecture", "share", "blocks"),
    [
        pytest.param(BASIC, 0.5, {"layer1.1", "layer2.1"}, id="basic-without-blocks"),
        pytest.param(BASIC, 0.75, {"layer2.2"}, id="last-block-of-a-stage", marks=pytest.mark.long),
        pytest.param(GROUPED, 0.5, set(), id="grouped", marks=pytest.mark.long),
    ],
)
def test_cut_from_the_graph_it_is_what_pruning_and_exporting_gives(
    architecture: Architecture, share: float, blocks: set[str], tmp_path: Path
) -> None:
    network = network_of(architecture)
    save_network(network, architecture, tmp_path)
    subject = subject_of(Checkpoint(folder=tmp_path), multiple=4, weight_bits=8)
    groups = channel_groups(network, architecture.input_shape)
    widths = {group.root: int(group.width * share) // group.parts * group.parts for group in groups}
    removal = {
        group.root: tuple(
            part * (group.width // group.parts) + index
            for part in range(group.parts)
            for index in range(widths[group.root] // group.parts, group.width // group.parts)
        )
        for group in groups
    }
    narrow, _ = remove_blocks(remove_channels(network, architecture.input_shape, removal), architecture, blocks)
    expected = write_dialect(export_marked(trace_folded(narrow), architecture.input_shape), None, Dialect.FLOAT)
    subnetwork = Subnetwork(widths=widths, removed=frozenset(blocks))
    marked, quantization = cut_subnetwork(
        subject.marked, subject.quantization, subject.layers, subject.full, subnetwork
    )
    assert described(write_dialect(marked, quantization, Dialect.FLOAT)) == described(expected)
    for dialect in (Dialect.FLOAT, Dialect.ONNXRUNTIME):
        path = tmp_path / f"{dialect}.onnx"
        onnx.save(write_dialect(marked, quantization, dialect), path)
        options = OnnxRuntimeCpu().session_options(find_target("cpu"), threads=1)
        with OnnxRuntimeCpu().open(path, options=options) as session:
            images = torch.zeros(1, *architecture.input_shape).numpy()
            assert session.infer(images).shape == (1, len(architecture.classes))


@pytest.mark.slow
def test_in_full_nothing_changes(tmp_path: Path) -> None:
    save_network(network_of(BASIC), BASIC, tmp_path)
    subject = subject_of(Checkpoint(folder=tmp_path), multiple=8, weight_bits=8)
    before = subject.marked.SerializeToString()
    marked, quantization = cut_subnetwork(
        subject.marked, subject.quantization, subject.layers, subject.full, Subnetwork(widths=subject.full)
    )
    assert quantization == subject.quantization
    assert described(marked) == described(subject.marked)
    assert subject.marked.SerializeToString() == before


@pytest.mark.slow
def test_a_normalization_of_its_own_is_refused() -> None:
    class Before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.second = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)
            self.head = nn.Linear(8, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            inside = self.first(images)
            out = self.second(self.norm(inside).relu() + inside)
            logits: torch.Tensor = self.head(out.mean((2, 3)))
            return logits

    network = Before().eval()
    groups = channel_groups(network, (3, 8, 8))
    full = {group.root: group.width for group in groups}
    nothing = Quantization(weight_bits=8, activations={}, weights={}, float_layers=())
    marked = export_marked(trace_folded(network), (3, 8, 8))
    with pytest.raises(CompressionError, match=r"batch normalization .* cannot be profiled by width"):
        cut_subnetwork(marked, nothing, sites(network, groups), full, Subnetwork(widths=full))


def test_custom_networks_keep_their_blocks() -> None:
    assert removable_blocks(replace(BASIC, family="custom")) == ()
