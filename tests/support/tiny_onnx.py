"""A residual network of three convolutions as ONNX, in float and with Q/DQ, written node by node.

images ─ conv1 ─ Relu ─┬─ conv2 ─ Relu ─ conv3 ─ Add ─ Relu ─ ReduceMean ─ fc ─ logits
                       └───────────────────────┘
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pipeline.artifacts import Dialect, OnnxModel, Parity, Precision

SIDE, WIDTH, CLASSES = 8, 16, 4
LAYERS = ("conv1", "conv2", "conv3", "fc")
PARITY = Parity(
    images=1,
    tensors=0,
    largest_distance=0,
    float_error=1,
    max_abs_difference=0,
    logit_range=1,
    is_undisturbed=True,
)


@dataclass
class Graph:
    """Nodes and constants in the making; `quantized` switches Q/DQ on."""

    quantized: bool
    relu_zero_point: int = 0
    weight_limit: int = 63
    unquantized: tuple[str, ...] = ()
    """Tensors that stay float although the others are quantized."""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, operator: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [f"{name}.out"], name=name, **attributes))  # type: ignore[arg-type]
        return f"{name}.out"

    def point(self, source: str, name: str, zero_point: int) -> str:
        """Q and DQ to uint8 around `zero_point`."""
        if not self.quantized or name in self.unquantized:
            return source
        grid = [
            self.constant(f"{name}.scale", np.array(0.03, np.float32)),
            self.constant(f"{name}.zero_point", np.array(zero_point, np.uint8)),
        ]
        integer = self.node("QuantizeLinear", [source, *grid], f"{name}.quantize")
        return self.node("DequantizeLinear", [integer, *grid], f"{name}.dequantize")

    def layer(self, operator: str, source: str, name: str, shape: tuple[int, ...], **attributes: object) -> str:
        fan_in = float(np.prod(shape[1:]))
        weight = (self.random.standard_normal(shape) * (2 / fan_in) ** 0.5).astype(np.float32)
        bias = (self.random.standard_normal(shape[0]) * 0.1).astype(np.float32)
        if not self.quantized:
            inputs = [source, self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
            return self.node(operator, inputs, name, **attributes)
        scales = (np.abs(weight).reshape(shape[0], -1).max(1) / self.weight_limit).astype(np.float32)
        columns = scales.reshape(-1, *[1] * (len(shape) - 1))
        integers = np.round(weight / columns).astype(np.int8)
        sums = (scales * np.float32(0.03)).astype(np.float32)
        inputs = [
            source,
            self.dequantized(f"{name}.weight", integers, scales),
            self.dequantized(f"{name}.bias", np.round(bias / sums).astype(np.int32), sums),
        ]
        return self.node(operator, inputs, name, **attributes)

    def dequantized(self, name: str, integers: NDArray[np.generic], scales: NDArray[np.float32]) -> str:
        inputs = [
            self.constant(f"{name}.integer", integers),
            self.constant(f"{name}.scale", scales),
            self.constant(f"{name}.zero_point", np.zeros(scales.shape, integers.dtype)),
        ]
        return self.node("DequantizeLinear", inputs, f"{name}.value", axis=0)

    def network(self) -> onnx.ModelProto:
        same = {"pads": [1, 1, 1, 1]}
        kernel = (WIDTH, WIDTH, 3, 3)
        x = self.point("images", "images", 128)
        x = self.layer("Conv", x, "conv1", (WIDTH, 3, 3, 3), **same)
        x = shortcut = self.point(self.node("Relu", [x], "relu1"), "relu1", self.relu_zero_point)
        x = self.layer("Conv", x, "conv2", kernel, **same)
        x = self.point(self.node("Relu", [x], "relu2"), "relu2", self.relu_zero_point)
        x = self.point(self.layer("Conv", x, "conv3", kernel, **same), "conv3", 128)
        x = self.node("Relu", [self.node("Add", [x, shortcut], "add")], "relu3")
        x = self.point(x, "relu3", 0)
        axes = self.constant("axes", np.array([2, 3], np.int64))
        x = self.point(self.node("ReduceMean", [x, axes], "mean", keepdims=0), "mean", 0)
        x = self.layer("Gemm", x, "fc", (CLASSES, WIDTH), transB=1)
        self.nodes.append(helper.make_node("Identity", [x], ["logits"], name="logits"))
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])
        graph = helper.make_graph(self.nodes, "tiny", [images], [logits], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model


def write_float(path: Path) -> OnnxModel:
    """The network in float."""
    onnx.save(Graph(quantized=False).network(), path)
    return OnnxModel(
        path=path,
        dialect=Dialect.FLOAT,
        precision=Precision.FP32,
        parity=PARITY,
        quantized_layers=(),
        float_layers=LAYERS,
    )


def write_int8(
    path: Path, *, relu_zero_point: int = 0, weight_limit: int = 63, unquantized: tuple[str, ...] = ()
) -> OnnxModel:
    """The same network in ONNX Runtime's dialect; other values than the defaults keep layers from fusing."""
    graph = Graph(quantized=True, relu_zero_point=relu_zero_point, weight_limit=weight_limit, unquantized=unquantized)
    onnx.save(graph.network(), path)
    return OnnxModel(
        path=path,
        dialect=Dialect.ONNXRUNTIME,
        precision=Precision.INT8,
        parity=PARITY,
        quantized_layers=LAYERS,
        float_layers=(),
    )
