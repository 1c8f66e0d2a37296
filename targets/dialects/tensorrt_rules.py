"""Checks of an ONNX file against TensorRT's rules of explicit quantization; needs only ONNX and NumPy.

TensorRT's parser rejects some violations on the device, long after the export; for others it silently builds a slow
engine. Sources: `NvInfer.h` on IQuantizeLayer, and the developer guide's chapter on explicit quantization.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from pipeline.errors import ExportError

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
LAYERS = ("Conv", "ConvTranspose", "Gemm")
POOLS = ("AveragePool", "GlobalAveragePool")
# TensorRT moves Q and DQ across these operators itself.
PASSING = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity")
NOT_IMPORTED = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")
MAX_SHOWN = 10


@dataclass(frozen=True)
class Violation:
    node: str
    rule: str
    """Short name of the rule, e.g. "symmetric"."""
    text: str


def check_rules(model: ModelProto, name: str, *, planned: Collection[str] = ()) -> None:
    """Raise `ExportError` with the nodes that TensorRT would reject or run slowly, and the rules they break.

    `planned` are the Conv and Gemm nodes that must be quantized.
    """
    found = violations(model, planned=planned)
    if not found:
        return
    lines = [f"{name} violates TensorRT's rules of explicit quantization (violations: {len(found)}):"]
    lines += [f"  {violation.node}: {violation.text} (rule: {violation.rule})" for violation in found[:MAX_SHOWN]]
    if len(found) > MAX_SHOWN:
        lines.append(f"  and {len(found) - MAX_SHOWN} more")
    layers = ", ".join(f'"{layer}"' for layer in layers_to_free(model, found, planned=planned))
    cure = f"To build for TensorRT, keep the affected layers in float: keep_float = [{layers}] in [quantize]."
    lines.append(cure if layers else "This is a bug in Edge Deploy; please report it.")
    raise ExportError("\n".join(lines))


def layers_to_free(model: ModelProto, found: Iterable[Violation], *, planned: Collection[str]) -> list[str]:
    """Return the Conv and Gemm nodes of `planned` that cause `found`, feed it or read it, for `keep_float`."""
    nodes = {node.name: node for node in model.graph.node}
    graph = _Graph(model)
    wanted: dict[str, None] = {}
    for violation in found:
        if violation.node in planned:
            wanted[violation.node] = None
        elif violation.node in nodes:
            start = nodes[violation.node]
            wanted |= dict.fromkeys(_nearest(start, graph.readers, planned) or _nearest(start, graph.makers, planned))
    return list(wanted)


def _nearest(start: NodeProto, steps: Callable[[NodeProto], list[NodeProto]], planned: Collection[str]) -> list[str]:
    """Return the names of the first nodes of `planned` on every path from `start`."""
    found: list[str] = []
    waiting, seen = steps(start), {start.name}
    while waiting:
        node = waiting.pop(0)
        if node.name in seen:
            continue
        seen.add(node.name)
        if node.name in planned:
            found.append(node.name)
        else:
            waiting += steps(node)
    return found


def violations(model: ModelProto, *, planned: Collection[str] = ()) -> list[Violation]:
    """Return all violations, in the order of the nodes."""
    graph = _Graph(model)
    found: list[Violation] = []
    for node in model.graph.node:
        for operators, rule in RULES:
            if operators is None or node.op_type in operators:
                found += [Violation(node.name, name, text) for name, text in rule(graph, node)]
    for layer in planned:
        node = next((node for node in model.graph.node if node.name == layer), None)
        if node is None or not graph.is_integer_layer(node):
            found.append(Violation(layer, "planned", "it is planned in int8, but its weight is not quantized"))
    return found


class _Graph:
    def __init__(self, model: ModelProto) -> None:
        self._made_by = {output: node for node in model.graph.node for output in node.output}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._consumers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in model.graph.output}

    def maker(self, name: str) -> NodeProto | None:
        return self._made_by.get(name)

    def constant(self, name: str) -> NDArray[np.generic] | None:
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def is_constant(self, name: str) -> bool:
        return name in self._constants

    def consumers(self, name: str) -> list[NodeProto]:
        return self._consumers.get(name, [])

    def readers(self, node: NodeProto) -> list[NodeProto]:
        return [reader for name in node.output for reader in self.consumers(name)]

    def makers(self, node: NodeProto) -> list[NodeProto]:
        return [self._made_by[name] for name in node.input if name in self._made_by]

    def is_made_by(self, name: str, *operators: str) -> bool:
        return name in self._made_by and self._made_by[name].op_type in operators

    def is_integer_layer(self, node: NodeProto) -> bool:
        return node.op_type in LAYERS and self.is_made_by(node.input[1], DEQUANTIZE)

    def origin(self, name: str) -> str:
        """Return the tensor that reaches `name` through operations that do not change values."""
        while self.is_made_by(name, *PASSING):
            name = self._made_by[name].input[0]
        return name

    def is_split(self, name: str) -> bool:
        """Return whether a dequantized tensor is a layer's output, with only Q and DQ between."""
        quantize = self.maker(self._made_by[self.origin(name)].input[0])
        return quantize is not None and self.is_made_by(quantize.input[0], *LAYERS)

    def is_weight(self, node: NodeProto) -> bool:
        """Return whether a Q or DQ reads a constant."""
        source = node.input[0]
        return self.is_constant(source) or (
            self.is_made_by(source, QUANTIZE) and self.is_weight(self._made_by[source])
        )


Found = Iterator[tuple[str, str]]


def _check_opset(_: _Graph, node: NodeProto) -> Found:
    if node.domain not in ("", "ai.onnx") or node.op_type in NOT_IMPORTED or node.op_type.startswith("QLinear"):
        operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        yield "operators", f"TensorRT does not import {operator}; it supports only QuantizeLinear and DequantizeLinear"


def _check_symmetric(graph: _Graph, node: NodeProto) -> Found:
    zero_point = graph.constant(node.input[2]) if len(node.input) > 2 else None
    if zero_point is None:
        yield "symmetric", "its zero point is not a constant; expected int8 zeros"
    elif zero_point.dtype != np.int8:
        yield "int8", f"its zero point is {zero_point.dtype}; expected int8 for weights and activations"
    elif np.any(zero_point != 0):
        worst = zero_point.reshape(-1)[np.flatnonzero(zero_point)[0]]
        yield "symmetric", f"its zero point is {worst}; TensorRT quantizes symmetrically, so it must be 0"


def _check_scales(graph: _Graph, node: NodeProto) -> Found:
    scale = graph.constant(node.input[1])
    if scale is None:
        yield "scales", "its scale is computed at run time; expected a constant"
    elif not np.all(np.isfinite(scale.astype(np.float64))) or not np.all(scale.astype(np.float64) > 0):
        yield "scales", f"its scale is {scale.astype(np.float64).min():.3g}; expected a finite value above 0"


def _check_placement(graph: _Graph, node: NodeProto) -> Found:
    """Check that activations have one scale per tensor, and weights one per channel of axis 0."""
    scale = graph.constant(node.input[1])
    if scale is None:
        return
    if not graph.is_weight(node):
        if scale.size != 1:
            yield "per tensor", f"it has {scale.size} scales for an activation; expected one"
        return
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    if scale.size > 1 and axis != 0:
        yield "axis", f"it scales a weight along axis {axis}; expected axis 0, the output channels"
    weight = graph.constant(node.input[0])
    if weight is not None and scale.size > 1 and scale.shape != weight.shape[:1]:
        yield (
            "axis",
            f"it has scales {list(scale.shape)} for a weight {list(weight.shape)}; expected one per output channel",
        )


def _check_pairs(graph: _Graph, node: NodeProto) -> Found:
    """Check that a Q is followed by DQs of the same scale, and that a DQ follows a Q or a stored int8 weight."""
    if node.op_type == QUANTIZE:
        for consumer in graph.consumers(node.output[0]):
            if consumer.op_type != DEQUANTIZE:
                yield (
                    "pairs",
                    f"its output goes to {consumer.op_type} {consumer.name}; expected a DequantizeLinear",
                )
        return
    source = graph.maker(node.input[0])
    if source is None or source.op_type != QUANTIZE:
        stored = graph.constant(node.input[0])
        if stored is None or stored.dtype not in (np.int8, np.int32):
            yield "pairs", "its input is neither a QuantizeLinear nor a stored int8 weight"
        return
    scales = [graph.constant(source.input[1]), graph.constant(node.input[1])]
    if all(scale is not None for scale in scales) and not np.array_equal(*scales):  # type: ignore[arg-type]
        yield "pairs", f"its scale differs from that of {source.name}"


def _check_inputs(graph: _Graph, node: NodeProto) -> Found:
    """Check that input and weight of an int8 layer are quantized, and that its bias is not."""
    if graph.is_integer_layer(node) and not graph.is_made_by(graph.origin(node.input[0]), DEQUANTIZE):
        yield "inputs", f"its weight is quantized, but its input {node.input[0]} is not"
    if len(node.input) < 3 or not node.input[2]:
        return
    bias = graph.constant(node.input[2])
    if graph.is_made_by(node.input[2], DEQUANTIZE):
        yield "bias", "its bias is dequantized; TensorRT supports only float biases"
    elif bias is not None and bias.dtype.kind != "f":
        yield "bias", f"its bias is {bias.dtype}; TensorRT supports only float biases"


def _check_additions(graph: _Graph, node: NodeProto) -> Found:
    """Check that Conv and Add can fuse: no node between them, and a quantized shortcut for an int8 Conv."""
    operands = [name for name in node.input if not graph.is_constant(name)]
    if len(operands) != 2:
        return
    makers = [graph.maker(name) for name in operands]
    integer = [maker is not None and graph.is_integer_layer(maker) for maker in makers]
    dequantized = [graph.is_made_by(graph.origin(name), DEQUANTIZE) for name in operands]
    if all(dequantized) and any(graph.is_split(name) for name in operands):
        yield "addition", "both its inputs are quantized, so it cannot fuse with its Conv; quantize only the shortcut"
    elif any(integer) and not any(dequantized):
        yield "addition", "its shortcut is not quantized, so the Conv that it fuses with cannot output int8"


def _check_activations(graph: _Graph, node: NodeProto) -> Found:
    """Check that a ReLU can fuse with the layer before it."""
    dequantize = graph.maker(node.input[0])
    if dequantize is None or dequantize.op_type != DEQUANTIZE:
        return
    quantize = graph.maker(dequantize.input[0])
    if quantize is not None and graph.is_made_by(quantize.input[0], *LAYERS, "Add", "BatchNormalization"):
        yield "activation", f"{quantize.name} is between it and the layer before it, so they cannot fuse"


def _check_pooling(graph: _Graph, node: NodeProto) -> Found:
    """Check that pooling is quantized on both sides or on neither: averages need a scale of their own."""
    is_quantized = graph.is_made_by(graph.origin(node.input[0]), DEQUANTIZE)
    ends = list(_ends(graph, node.output[0]))
    # The network's outputs need no quantization.
    answers = [end for end in ends if end is not None]
    if not answers:
        return
    if is_quantized and not all(end.op_type == QUANTIZE for end in answers):
        other = next(end for end in answers if end.op_type != QUANTIZE)
        yield "pooling", f"its input is quantized, but its output goes to {other.op_type} {other.name} unquantized"
    elif not is_quantized and any(end.op_type == QUANTIZE for end in answers):
        yield "pooling", "its output is quantized, but its input is not; int8 pooling needs both"


def _ends(graph: _Graph, name: str) -> Iterator[NodeProto | None]:
    """Yield the readers of a tensor, skipping operations that do not change values; None for a network output."""
    if name in graph.outputs:
        yield None
    for consumer in graph.consumers(name):
        if consumer.op_type in PASSING:
            yield from _ends(graph, consumer.output[0])
        else:
            yield consumer


Rule = Callable[[_Graph, NodeProto], Found]
RULES: tuple[tuple[tuple[str, ...] | None, Rule], ...] = (
    (None, _check_opset),
    ((QUANTIZE, DEQUANTIZE), _check_symmetric),
    ((QUANTIZE, DEQUANTIZE), _check_scales),
    ((QUANTIZE, DEQUANTIZE), _check_placement),
    ((QUANTIZE, DEQUANTIZE), _check_pairs),
    (LAYERS, _check_inputs),
    (("Add",), _check_additions),
    (("Relu",), _check_activations),
    (POOLS, _check_pooling),
)
