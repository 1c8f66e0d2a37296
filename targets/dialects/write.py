"""Write a marked float graph as one ONNX file per runtime; needs only ONNX and NumPy.

The graph comes from `quantize.marked_graph`: a float network whose tensors pass through marker nodes of the domain
`edge_deploy`. `Point` (attributes `name`, `tensorrt`) marks where an activation may be quantized, `Weight`
(attribute `name`) lies between a Conv's or Gemm's weight and the node. A dialect replaces or removes them:

    float         x ──────────────────────────▶ Conv          markers removed
    onnxruntime   x ─ Q ─ DQ(u8) ─────────────▶ Conv          every point; weights int8 and bias int32, each with
                  w(s8) ─ DQ ─▶  b(s32) ─ DQ ─▶               DQ alone, so that each Conv fuses to QLinearConv;
                                                              kept in float: Clip before it (see `_keep_float`);
                                                              a strided stem over pixels: see `space_to_depth`
    tensorrt      x ─ Q ─ DQ(s8, zero point 0) ▶ Conv         points with tensorrt=1 only: inputs of Conv and Gemm,
                  w(s8) ─ DQ ─▶  b(float) ─────▶              the shortcut of an Add, both sides of pooling

Why they differ: ONNX Runtime fuses Conv and Add only between integer tensors and drops a ReLU only
if the zero point is the type's minimum; TensorRT supports no zero points, no int32 DequantizeLinear, and fuses
Conv + Add only if no node is between the two.
"""

from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from pipeline.artifacts import Dialect, Quantization
from pipeline.errors import ExportError
from targets.dialects.grids import Grid, activation_grid, integer_bias, integer_weights, weight_limit
from targets.dialects.markers import DOMAIN, POINT
from targets.dialects.space_to_depth import fold_stem

LAYERS = ("Conv", "Gemm")
PRODUCER = "edge-deploy"


def write_dialect(marked: ModelProto, quantization: Quantization | None, dialect: Dialect) -> ModelProto:
    """Return the model in one dialect; output is reproducible and contains nothing of the machine.

    Raises `ExportError` if `quantization` does not match the graph.
    """
    writer = _Writer(marked.graph, quantization, dialect)
    for node in marked.graph.node:
        writer.add(node)
    model = writer.model(marked)
    if dialect is Dialect.ONNXRUNTIME:
        fold_stem(model)
    return model


def layer_names(model: ModelProto) -> tuple[str, ...]:
    """Return the names of the Conv and Gemm nodes, in the order they run."""
    return tuple(node.name for node in model.graph.node if node.op_type in LAYERS)


class _Writer:
    """The graph being written: nodes in order, constants by name, and the new name of each marker's output."""

    def __init__(self, graph: GraphProto, quantization: Quantization | None, dialect: Dialect) -> None:
        self._dialect = dialect
        self._quantization = quantization
        self._graph = graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes: list[NodeProto] = []
        self._renamed: dict[str, str] = {}
        self._points: dict[str, str] = {}
        """Tensor name → the point whose grid it is on."""
        self._layers: dict[str, str] = {}
        """Output of a `Weight` marker → the layer's name."""
        self._written: set[str] = set()
        """Names of the layers written so far."""

    def add(self, node: NodeProto) -> None:
        """Convert one node of the marked graph."""
        if node.domain == DOMAIN and node.op_type == POINT:
            self._add_point(node)
        elif node.domain == DOMAIN:
            self._layers[node.output[0]] = _text(node, "name")
            self._renamed[node.output[0]] = node.input[0]
        elif node.op_type in LAYERS:
            self._add_layer(node, self._layer_of(node))
        else:
            self._add_plain(node, node.output[0], [self._name_of(name) for name in node.input])

    def model(self, marked: ModelProto) -> ModelProto:
        """Return the written model, with only the constants in use."""
        self._check_complete()
        for output in self._graph.output:
            if output.name in self._renamed:
                source = self._renamed[output.name]
                self._nodes.append(helper.make_node("Identity", [source], [output.name], name=output.name))
        used = {name for node in self._nodes for name in node.input}
        graph = helper.make_graph(
            self._nodes,
            PRODUCER,
            [_strip_notes(value) for value in self._graph.input],
            [_strip_notes(value) for value in self._graph.output],
            [self._constants[name] for name in sorted(used & self._constants.keys())],
        )
        opsets = [opset for opset in marked.opset_import if opset.domain != DOMAIN]
        written = helper.make_model(graph, opset_imports=opsets, producer_name=PRODUCER)
        written.ir_version = marked.ir_version
        return written

    def _add_point(self, node: NodeProto) -> None:
        source, target = self._name_of(node.input[0]), node.output[0]
        point = _text(node, "name")
        if not self._is_written(node):
            self._renamed[target] = source
            return
        grid = self._grid_of(point)
        parameters = [
            self._constant(f"{point}.scale", np.array(grid.scale, np.float32)),
            self._constant(f"{point}.zero_point", np.array(grid.zero_point, grid.dtype)),
        ]
        label = self._unique(point)
        integer, value = f"{label}.integer", f"{label}.value"
        self._node("QuantizeLinear", [source, *parameters], integer, name=f"{label}.quantize")
        self._node("DequantizeLinear", [integer, *parameters], value, name=f"{label}.dequantize")
        self._renamed[target] = value
        self._points[value] = point

    def _is_written(self, node: NodeProto) -> bool:
        match self._dialect:
            case Dialect.FLOAT:
                return False
            case Dialect.ONNXRUNTIME:
                return True
            case Dialect.TENSORRT:
                return _integer(node, "tensorrt") == 1

    def _add_layer(self, node: NodeProto, layer: str) -> None:
        source, weight, *bias = [self._name_of(name) for name in node.input]
        is_marked = node.input[1] in self._layers
        if is_marked and self._dialect is not Dialect.FLOAT:
            _check_layout(node, layer)
            scales = self._scales_of(layer)
            weight = self._integer_weight(layer, weight, scales)
            if bias and self._dialect is Dialect.ONNXRUNTIME:
                bias = [self._integer_bias(layer, source, bias[0], scales)]
        elif self._dialect is Dialect.ONNXRUNTIME and source in self._points:
            source = self._keep_float(layer, source)
        self._written.add(layer)
        self._add_plain(node, layer, [source, weight, *bias])

    def _layer_of(self, node: NodeProto) -> str:
        """Return the module's name; for a layer without marker, which stays float, take it from the weight's name."""
        if node.input[1] in self._layers:
            return self._layers[node.input[1]]
        weight = self._name_of(node.input[1])
        layer = weight.removesuffix(".weight")
        is_known = weight in self._constants and layer != weight and layer not in self._written
        return layer if is_known else node.output[0]

    def _keep_float(self, layer: str, source: str) -> str:
        """Insert a Clip without bounds, which changes nothing, before a float layer and return its output.

        If a Conv or Gemm reads a DequantizeLinear, ONNX Runtime (`WeightBiasQuantization`) quantizes its float weights
        to int8 with one scale for all channels; a node between the two prevents it.
        """
        self._node("Clip", [source], f"{layer}.input", name=f"{layer}.keep_float")
        return f"{layer}.input"

    def _check_complete(self) -> None:
        planned = () if self._dialect is Dialect.FLOAT else self._check_known().weights
        missing = [layer for layer in planned if layer not in self._written]
        if missing:
            raise ExportError(
                f"{', '.join(missing)}: quantized, but not a Conv or Gemm in the exported graph (a Linear becomes a "
                "Gemm only for inputs [batch, features]). Keep it in float: add it to keep_float in [quantize]."
            )

    def _integer_weight(self, layer: str, weight: str, scales: NDArray[np.float32]) -> str:
        integers = integer_weights(self._array(weight), scales, weight_limit(self._check_known().weight_bits))
        return self._dequantize(f"{layer}.weight", integers, scales)

    def _integer_bias(self, layer: str, source: str, bias: str, scales: NDArray[np.float32]) -> str:
        """Quantize the bias to the grid of the int32 sums, the only one that ONNX Runtime fuses."""
        if source not in self._points:
            raise ExportError(
                f"{layer} cannot run in int8: another operation ({source}, e.g. padding with a value other than zero) "
                "is between its quantized input and the layer. Add it to keep_float in [quantize]."
            )
        sums = np.float32(self._grid_of(self._points[source]).scale) * scales
        return self._dequantize(f"{layer}.bias", integer_bias(self._array(bias), sums), sums)

    def _dequantize(
        self, name: str, integers: NDArray[np.int8] | NDArray[np.int32], scales: NDArray[np.float32]
    ) -> str:
        """Store a constant as integers [C, ...] and dequantize it per output channel; return the output's name."""
        inputs = [self._constant(f"{name}.integer", integers), self._constant(f"{name}.scale", scales)]
        inputs.append(self._constant(f"{name}.zero_point", np.zeros(scales.shape, integers.dtype)))
        self._node("DequantizeLinear", inputs, f"{name}.value", name=f"{name}.dequantize", axis=0)
        return f"{name}.value"

    def _add_plain(self, node: NodeProto, name: str, inputs: Iterable[str]) -> None:
        copy = helper.make_node(node.op_type, list(inputs), list(node.output), name=name, domain=node.domain or None)
        copy.attribute.extend(sorted(node.attribute, key=lambda attribute: attribute.name))
        self._nodes.append(copy)

    def _node(self, operator: str, inputs: list[str], output: str, *, name: str, axis: int | None = None) -> None:
        node = helper.make_node(operator, inputs, [output], name=name)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self._nodes.append(node)

    def _constant(self, name: str, value: NDArray[np.generic]) -> str:
        self._constants[name] = numpy_helper.from_array(value, name)
        return name

    def _array(self, name: str) -> NDArray[np.float32]:
        if name not in self._constants:
            raise ExportError(f"{name} is computed at run time; only constant weights can be quantized.")
        return numpy_helper.to_array(self._constants[name])

    def _name_of(self, name: str) -> str:
        return self._renamed.get(name, name)

    def _unique(self, point: str) -> str:
        """Return `point`, then `point.1`, … if the same grid is applied again after pooling or reshaping."""
        again = sum(name == point for name in self._points.values())
        return point if again == 0 else f"{point}.{again}"

    def _grid_of(self, point: str) -> Grid:
        if point not in self._check_known().activations:
            raise ExportError(f"quantization.json has no range for {point}; it is from another network.")
        return activation_grid(self._check_known().activations[point], self._dialect)

    def _scales_of(self, layer: str) -> NDArray[np.float32]:
        if layer not in self._check_known().weights:
            raise ExportError(f"quantization.json has no scales for {layer}; it is from another network.")
        return np.array(self._check_known().weights[layer], np.float32)

    def _check_known(self) -> Quantization:
        if self._quantization is None:
            raise ExportError(f"the network is not quantized, so it cannot be written for {self._dialect}.")
        return self._quantization


def _check_layout(node: NodeProto, layer: str) -> None:
    """Check that axis 0 of the weight is the output channels: [out, in, h, w] of a Conv, [out, in] of a Gemm."""
    if node.op_type == "Gemm" and _integer(node, "transB") != 1:
        raise ExportError(f"{layer} is exported as a Gemm with transposed weight; add it to keep_float in [quantize].")


def _strip_notes(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """Return name and type without the exporter's metadata."""
    copy = onnx.ValueInfoProto()
    copy.name = value.name
    copy.type.CopyFrom(value.type)
    return copy


def _text(node: NodeProto, attribute: str) -> str:
    return next(str(entry.s.decode()) for entry in node.attribute if entry.name == attribute)


def _integer(node: NodeProto, attribute: str) -> int:
    return next((entry.i for entry in node.attribute if entry.name == attribute), 0)
