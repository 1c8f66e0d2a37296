"""The one export that all dialects are written from."""

import logging
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator
from random_statistics import with_random_statistics
from tiny_quantized import SIDE, calibrated, float_network, noise
from torch import Tensor, nn

from pipeline.errors import ExportError
from pipeline.models.folding import trace_folded
from pipeline.quantize.fake_quant import QuantizedConv2d
from pipeline.quantize.marked_graph import OPSET, export_marked
from pipeline.quantize.network import points_of
from targets.dialects.markers import DOMAIN


@pytest.fixture(scope="module")
def marked() -> ModelProto:
    return export_marked(calibrated(float_network("option A")), (3, SIDE, SIDE))


def sizes(value: onnx.ValueInfoProto) -> list[str | int]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


def test_names_and_shapes_of_the_ends_are_fixed_but_for_the_batch(marked: ModelProto) -> None:
    (images,), (logits,) = marked.graph.input, marked.graph.output
    assert (images.name, sizes(images)) == ("images", ["batch", 3, SIDE, SIDE])
    assert (logits.name, sizes(logits)) == ("logits", ["batch", 10])
    assert [entry.version for entry in marked.opset_import if entry.domain == ""] == [OPSET]


def test_every_point_and_every_weight_is_marked(marked: ModelProto) -> None:
    nodes = [node for node in marked.graph.node if node.domain == DOMAIN]
    assert Counter(node.op_type for node in nodes) == {"Point": 11, "Weight": 7}
    names = {a.s.decode() for node in nodes for a in node.attribute if a.name == "name"}
    assert {"images", "layer1.0.add", "layer2.0.downsample.0", "fc"} <= names


def test_the_rest_is_the_folded_float_network(marked: ModelProto) -> None:
    plain = Counter(node.op_type for node in marked.graph.node if node.domain != DOMAIN)
    assert plain == {"Conv": 6, "Gemm": 1, "Add": 2, "Relu": 5, "GlobalAveragePool": 1, "Reshape": 1}


@pytest.mark.slow
def test_afterwards_the_network_computes_in_float_again() -> None:
    network = calibrated(float_network("option A"))
    export_marked(network, (3, SIDE, SIDE))
    layers = [module for module in network.modules() if isinstance(module, QuantizedConv2d)]
    assert {point.mode for point in points_of(network)} == {"float"}
    assert {layer.quantizer.mode for layer in layers} == {"float"}


class Averaging(nn.Module):
    """All ways to average that end in a ReduceMean."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv = nn.Conv2d(3, 4, 3)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.conv(images)
        match self.way:
            case "module":
                pooled: Tensor = self.pool(out)
                return pooled.flatten(1)
            case "axes":
                return out.mean((2, 3))
            case "negative axes":
                return out.mean((-1, -2), keepdim=True).flatten(1)
            case "one axis":
                return out.mean(3).flatten(1)
            case _:
                return out.mean((1, 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "is_global"),
    [("module", True), ("axes", True), ("negative axes", True), ("one axis", False), ("other axes", False)],
)
def test_only_the_mean_over_height_and_width_is_global_pooling(way: str, is_global: bool) -> None:
    network = with_random_statistics(Averaging(way), seed=0)
    model = export_marked(trace_folded(network), (3, 8, 8))
    counts = Counter(node.op_type for node in model.graph.node)
    assert (counts["GlobalAveragePool"], counts["ReduceMean"]) == ((1, 0) if is_global else (0, 1))
    onnx.checker.check_model(model, full_check=True)
    images = noise(3, 8)
    (found,) = ReferenceEvaluator(model).run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(np.asarray(found)), network(images).detach(), rtol=1e-4, atol=1e-5)


class Nameless(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError


class Refusing(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise ValueError("only images of 7x7\nand some more lines")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "message"),
    [(Nameless(), r"to ONNX: AssertionError\. Avoid"), (Refusing(), r"to ONNX: only images of 7x7\. Avoid")],
)
def test_a_failing_export_is_an_error_with_its_reason(network: nn.Module, message: str) -> None:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with pytest.raises(ExportError, match=message):
        export_marked(network.eval(), (3, 8, 8))
    assert logger.level == level
