"""TensorRT's rules of explicit quantization, on real exports and on exports broken in each way."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper
from tiny_quantized import NETWORKS, exported, float_network, marked
from torch import nn

from pipeline.artifacts import Dialect
from pipeline.errors import ExportError
from pipeline.export.export import export
from pipeline.progress import Silent
from targets.dialects import tensorrt_rules as trt_rules
from targets.dialects.tensorrt_rules import check_rules, violations
from targets.dialects.write import write_dialect

Break = Callable[[ModelProto], None]


@pytest.fixture(params=NETWORKS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.slow
@pytest.mark.parametrize(
    "keep_float",
    [(), ("conv1", "fc"), ("layer1.0.conv1",), ("layer1.0.conv2",), ("layer2.0.downsample.0", "layer1.0.conv2")],
    ids=lambda names: "+".join(names) or "all in int8",
)
def test_what_we_write_breaks_no_rule(
    kind: str, keep_float: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    known = {node.name for node in plain(kind).graph.node}
    kept = tuple(name for name in keep_float if name in known)
    if kept:
        model, quantization = marked(float_network(kind), keep_float=kept)
        model = write_dialect(model, quantization, Dialect.TENSORRT)
        planned = tuple(quantization.weights)
    else:
        found = exported(kind, tmp_path_factory).models[Dialect.TENSORRT]
        model, planned = onnx.load(found.path), found.quantized_layers
    assert violations(model, planned=planned) == []
    assert planned


@cache
def written(kind: str) -> bytes:
    model, quantization = marked(float_network(kind))
    return bytes(write_dialect(model, quantization, Dialect.TENSORRT).SerializeToString())


def plain(kind: str) -> ModelProto:
    model: ModelProto = ModelProto.FromString(written(kind))
    return model


@pytest.fixture
def good() -> ModelProto:
    """ResNet of option B with an average pool: it has every place that a rule speaks of."""
    return plain("option B")


def node_of(model: ModelProto, name: str) -> NodeProto:
    found: NodeProto = next(node for node in model.graph.node if node.name == name)
    return found


def first(model: ModelProto, operator: str) -> NodeProto:
    found: NodeProto = next(node for node in model.graph.node if node.op_type == operator)
    return found


def replace(model: ModelProto, name: str, value: np.ndarray) -> None:
    next(tensor for tensor in model.graph.initializer if tensor.name == name).CopyFrom(
        numpy_helper.from_array(value, name)
    )


def add(model: ModelProto, name: str, value: np.ndarray) -> str:
    model.graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def with_qdq(model: ModelProto, node: NodeProto, index: int) -> None:
    """Q and DQ of their own on one input of a node."""
    source = node.input[index]
    parameters = [add(model, "more.scale", np.array(0.1, np.float32)), add(model, "more.zero", np.array(0, np.int8))]
    position = list(model.graph.node).index(node)
    quantize = helper.make_node("QuantizeLinear", [source, *parameters], ["more.integer"], name="more.quantize")
    dequantize = helper.make_node("DequantizeLinear", ["more.integer", *parameters], ["more.value"], name="more.dq")
    model.graph.node.insert(position, dequantize)
    model.graph.node.insert(position, quantize)
    node_of(model, node.name).input[index] = "more.value"


def without_qdq(model: ModelProto, node: NodeProto, index: int) -> None:
    makers = {output: made for made in model.graph.node for output in made.output}
    dequantize = makers[node.input[index]]
    assert dequantize.op_type == "DequantizeLinear"
    node.input[index] = makers[dequantize.input[0]].input[0]


def shortcut(model: ModelProto, addition: NodeProto) -> int:
    makers = {output: made for made in model.graph.node for output in made.output}
    return [makers[name].op_type for name in addition.input].index("DequantizeLinear")


def asymmetric(model: ModelProto) -> None:
    replace(model, first(model, "QuantizeLinear").input[2], np.array(3, np.int8))


def unsigned(model: ModelProto) -> None:
    replace(model, first(model, "QuantizeLinear").input[2], np.array(0, np.uint8))


def without_zero_point(model: ModelProto) -> None:
    del first(model, "QuantizeLinear").input[2]


def negative_scale(model: ModelProto) -> None:
    replace(model, first(model, "QuantizeLinear").input[1], np.array(-0.5, np.float32))


def scale_of_nothing(model: ModelProto) -> None:
    replace(model, "layer1.0.conv1.weight.scale", np.zeros(8, np.float32))


def computed_scale(model: ModelProto) -> None:
    first(model, "QuantizeLinear").input[1] = "images"


def per_channel_activation(model: ModelProto) -> None:
    replace(model, first(model, "QuantizeLinear").input[1], np.full(3, 0.1, np.float32))


def axis_one(model: ModelProto) -> None:
    next(entry for entry in node_of(model, "layer1.0.conv1.weight.dequantize").attribute if entry.name == "axis").i = 1


def axis_left_out(model: ModelProto) -> None:
    del node_of(model, "layer1.0.conv1.weight.dequantize").attribute[:]


def too_few_scales(model: ModelProto) -> None:
    replace(model, "layer1.0.conv1.weight.scale", np.full(4, 0.1, np.float32))


def float_input(model: ModelProto) -> None:
    without_qdq(model, node_of(model, "conv1"), 0)


def float_weight(model: ModelProto) -> None:
    layer = node_of(model, "layer1.0.conv1")
    layer.input[1] = add(model, "float.weight", np.zeros((8, 8, 3, 3), np.float32))


def dequantized_bias(model: ModelProto) -> None:
    layer = node_of(model, "layer1.0.conv1")
    parameters = [
        add(model, "b", np.zeros(8, np.int32)),
        add(model, "b.scale", np.ones(8, np.float32)),
        add(model, "b.zero", np.zeros(8, np.int8)),
    ]
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", parameters, ["b.value"], name="b.dq", axis=0))
    layer.input[2] = "b.value"


def integer_bias(model: ModelProto) -> None:
    node_of(model, "layer1.0.conv1").input[2] = add(model, "b", np.zeros(8, np.int32))


def quantized_both(model: ModelProto) -> None:
    addition = first(model, "Add")
    with_qdq(model, addition, 1 - shortcut(model, addition))


def float_shortcut(model: ModelProto) -> None:
    addition = first(model, "Add")
    without_qdq(model, addition, shortcut(model, addition))


def quantized_before_relu(model: ModelProto) -> None:
    with_qdq(model, first(model, "Relu"), 0)


def float_pool_input(model: ModelProto) -> None:
    without_qdq(model, first(model, "GlobalAveragePool"), 0)


def float_pool_output(model: ModelProto) -> None:
    pool = first(model, "GlobalAveragePool")
    following = next(node for node in model.graph.node if pool.output[0] in node.input)
    assert following.op_type == "QuantizeLinear"
    dequantize = next(node for node in model.graph.node if following.output[0] in node.input)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == dequantize.output[0]:
                node.input[index] = pool.output[0]


def operator_of_onnx_runtime(model: ModelProto) -> None:
    layer = node_of(model, "layer1.0.conv1")
    layer.op_type = "QLinearConv"


def foreign_domain(model: ModelProto) -> None:
    node_of(model, "fc").domain = "com.microsoft"


def integers_to_a_layer(model: ModelProto) -> None:
    node_of(model, "conv1").input[0] = first(model, "QuantizeLinear").output[0]


def another_scale_behind(model: ModelProto) -> None:
    first(model, "DequantizeLinear").input[1] = add(model, "other.scale", np.array(0.123, np.float32))


BROKEN: tuple[tuple[Break, str, str], ...] = (
    (asymmetric, "symmetric", "its zero point is 3"),
    (unsigned, "int8", "its zero point is uint8"),
    (without_zero_point, "symmetric", "not a constant"),
    (negative_scale, "scales", "its scale is -0.5"),
    (scale_of_nothing, "scales", "its scale is 0"),
    (computed_scale, "scales", "computed at run time"),
    (per_channel_activation, "per tensor", "3 scales for an activation"),
    (axis_one, "axis", "along axis 1"),
    (axis_left_out, "axis", "along axis 1"),
    (too_few_scales, "axis", r"scales \[4\] for a weight \[8"),
    (float_input, "inputs", "its input images is not"),
    (float_weight, "planned", "its weight is not quantized"),
    (dequantized_bias, "bias", "its bias is dequantized"),
    (integer_bias, "bias", "its bias is int32"),
    (quantized_both, "addition", "both its inputs are quantized"),
    (float_shortcut, "addition", "its shortcut is not quantized"),
    (quantized_before_relu, "activation", "more.quantize is between"),
    (float_pool_input, "pooling", "its input is not"),
    (float_pool_output, "pooling", "its input is quantized, but its output goes to"),
    (operator_of_onnx_runtime, "operators", "does not import QLinearConv"),
    (foreign_domain, "operators", "does not import com.microsoft.Gemm"),
    (integers_to_a_layer, "pairs", "its output goes to Conv conv1"),
    (another_scale_behind, "pairs", "its scale differs from that of"),
)


@pytest.mark.parametrize(("broken", "rule", "message"), BROKEN, ids=[entry[0].__name__ for entry in BROKEN])
def test_each_way_to_break_a_graph_is_found_by_its_rule(
    good: ModelProto, broken: Break, rule: str, message: str
) -> None:
    planned = [node.name for node in good.graph.node if node.op_type in ("Conv", "Gemm")]
    assert violations(good, planned=planned) == []
    broken(good)
    assert rule in {violation.rule for violation in violations(good, planned=planned)}
    with pytest.raises(
        ExportError, match=rf"tensorrt\.onnx violates TensorRT's rules .*\(violations: \d+\)[\s\S]*{message}"
    ):
        check_rules(good, "tensorrt.onnx", planned=planned)


def test_every_rule_is_broken_by_some_graph_above() -> None:
    text = Path(trt_rules.__file__).read_text()
    assert set(re.findall(r'(?:yield |Violation\(layer, )"([a-z0-9 ]+)"', text)) == {rule for _, rule, _ in BROKEN}


class Swish(nn.Module):
    """Average pooling reads what is never quantized, and a linear layer in int8 reads the average."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.inner, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        act = nn.functional.silu
        logits: torch.Tensor = self.fc(act(self.inner(act(self.conv(images)))).mean((2, 3)))
        return logits


@pytest.mark.slow
def test_the_cure_names_layers_that_can_be_kept_in_float_and_is_one() -> None:
    torch.manual_seed(0)
    network = Swish().eval()
    model, quantization = marked(network)
    written = write_dialect(model, quantization, Dialect.TENSORRT)
    with pytest.raises(ExportError, match=r"mean_pooled: its output[\s\S]*keep_float = \[(.+)\] in \[quantize\]") as e:
        check_rules(written, "tensorrt.onnx", planned=quantization.weights)
    named = re.search(r"keep_float = \[(.+?)\]", str(e.value))
    assert named is not None
    layers = tuple(name.strip('"') for name in named[1].split(", "))
    assert layers == ("fc",)
    model, quantization = marked(network, keep_float=layers)
    assert violations(write_dialect(model, quantization, Dialect.TENSORRT), planned=quantization.weights) == []


class Branches(nn.Module):
    """An addition of two tensors that other layers read, too, so that both are quantized; neither is a layer's own."""

    def __init__(self, *, with_relu: bool) -> None:
        super().__init__()
        self.first, self.second, self.third, self.fourth = (
            nn.Conv2d(channels, 8, 3, padding=1) for channels in (3, 8, 8, 8)
        )
        self.with_relu = with_relu

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        one = torch.relu(self.first(images))
        two = torch.relu(self.second(one)) if self.with_relu else self.second(one)
        three = self.third(two)
        four: torch.Tensor = self.fourth(torch.relu(one + two)) + torch.relu(three)
        return four.mean((2, 3))


@pytest.mark.slow
@pytest.mark.parametrize(("with_relu", "rules"), [(True, set()), (False, {"addition"})])
def test_only_an_addition_that_could_fuse_has_to(with_relu: bool, rules: set[str]) -> None:
    torch.manual_seed(0)
    model, quantization = marked(Branches(with_relu=with_relu).eval())
    written = write_dialect(model, quantization, Dialect.TENSORRT)
    assert {violation.rule for violation in violations(written)} == rules


def test_the_file_of_onnx_runtime_breaks_many_rules(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = onnx.load(exported("option A", tmp_path_factory).models[Dialect.ONNXRUNTIME].path)
    assert {"int8", "bias", "addition"} <= {violation.rule for violation in violations(model)}


@pytest.mark.slow
def test_an_export_that_breaks_a_rule_is_no_export(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checker is asked about every TensorRT file: with another plan of points the stage fails."""
    from tiny_quantized import PREPROCESSING, digits

    checkpoint = exported("option A", tmp_path_factory).quantized
    real = write_dialect

    def spoiled(*arguments: object) -> ModelProto:
        model = real(*arguments)  # type: ignore[arg-type]
        asymmetric(model)
        return model

    monkeypatch.setattr("pipeline.export.export.write_dialect", spoiled)
    with pytest.raises(ExportError, match="its zero point is 3"):
        export(checkpoint, digits(), PREPROCESSING, dialects=(Dialect.TENSORRT,), progress=Silent(), folder=tmp_path)
