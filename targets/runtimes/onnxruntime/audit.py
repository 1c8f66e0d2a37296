"""Compare what ONNX Runtime's optimized graph runs in int8 with the plan.

ONNX Runtime leaves a quantized Conv or Gemm in float if the graph does not match its fusion rules.

The rules (`qdq_selector_action_transformer.cc`, `relu_quantizelinear.cc` of ONNX Runtime 1.32):

    DQ(x) ─┐
    DQ(w) ─┼─ Conv ─ [Relu] ─ Q        every input dequantized, the one output quantized;
    DQ(b) ─┘                           a Relu is removed only if Q's zero point is its type's minimum
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from pipeline.artifacts import Audit, OnnxModel
from pipeline.errors import CompileError

UNKNOWN = "ONNX Runtime gives no reason"


def why_float(model: ModelProto, layer: str) -> str:
    """Return the likely reason in words."""
    graph = _Graph(model)
    node = next((node for node in model.graph.node if node.name == layer), None)
    if node is None:
        return "the file has no node of this name"
    return graph.input_reason(node) or graph.output_reason(node) or UNKNOWN


class _Graph:
    def __init__(self, model: ModelProto) -> None:
        self._made_by = {output: node for node in model.graph.node for output in node.output}
        self._consumers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._outputs = {value.name for value in model.graph.output}

    def input_reason(self, node: NodeProto) -> str | None:
        for what, name in zip(("input", "weight"), node.input, strict=False):
            if not self._is_made_by(name, "DequantizeLinear"):
                return f"its {what} {name} is not quantized"
        if len(node.input) > 2 and self._is_made_by(node.input[2], "DequantizeLinear"):
            return self._bias_reason(node)
        return None

    def output_reason(self, node: NodeProto) -> str | None:
        if node.op_type == "Gemm":
            return None
        output, relu = node.output[0], None
        following = self._consumers.get(output, [])
        if len(following) == 1 and following[0].op_type == "Relu":
            relu = following[0]
            output = relu.output[0]
            following = self._consumers.get(output, [])
        if output in self._outputs:
            return f"its output {output} is a model output and not quantized"
        for consumer in following:
            if consumer.op_type != "QuantizeLinear":
                return f"its output goes to {consumer.op_type} {consumer.name} without being quantized"
        return None if relu is None else self._relu_reason(relu, following[0])

    def _bias_reason(self, node: NodeProto) -> str | None:
        scales = [self._constant(self._made_by[name].input[1]) for name in node.input[:3]]
        if any(scale is None for scale in scales):
            return None
        x, w, b = (scale for scale in scales if scale is not None)
        if np.allclose(b, x * w, rtol=1e-3):
            return None
        return "the scale of its bias is not input scale times weight scale"

    def _relu_reason(self, relu: NodeProto, quantize: NodeProto) -> str | None:
        zero_point = self._constant(quantize.input[2]) if len(quantize.input) > 2 else None
        if zero_point is None or zero_point.item() == np.iinfo(zero_point.dtype).min:
            return None
        return (
            f"the Relu {relu.name} after it cannot be removed, because the {zero_point.dtype} zero point "
            f"{zero_point.item()} is not that type's minimum"
        )

    def _constant(self, name: str) -> np.ndarray | None:
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def _is_made_by(self, name: str, operator: str) -> bool:
        return name in self._made_by and self._made_by[name].op_type == operator


# Position of the weight among a node's inputs.
INT8_OPERATORS = {
    "QLinearConv": 3,
    "ConvInteger": 1,
    "QGemm": 3,
    "QLinearMatMul": 3,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
}
FLOAT_OPERATORS = frozenset({"Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"})
# ONNX Runtime names a node it moves to another layout after the old one.
SUFFIX = re.compile(r"(_token_\d+|_nhwc|_nchwc)+$")


def audit_graph(model: OnnxModel, optimized: Path, *, runtime: str) -> Audit:
    """Count the Conv and Gemm of an optimized graph; raise `CompileError` if a layer does not run as planned."""
    source = onnx.load(model.path)
    graph = onnx.load(optimized).graph
    int8 = [node for node in graph.node if node.op_type in INT8_OPERATORS]
    floats = [node for node in graph.node if node.op_type in FLOAT_OPERATORS]
    ran_int8 = _layers_of(int8, _layers_by_constant(source))
    missing = [layer for layer in model.quantized_layers if layer not in ran_int8]
    if missing:
        raise CompileError(_explain(model.path, source, missing, len(model.quantized_layers), runtime))
    rounded = [layer for layer in model.float_layers if layer in ran_int8]
    if rounded:
        raise CompileError(
            f"{runtime} runs {', '.join(rounded[:10])} in int8, although the plan keeps "
            f"{'it' if len(rounded) == 1 else 'them'} in float. Please report this as a bug."
        )
    return Audit(
        int8_nodes=len(int8),
        float_nodes=len(floats),
        kept_float=model.float_layers,
        operators=dict(sorted(Counter(node.op_type for node in graph.node).items())),
    )


def _layers_of(nodes: Iterable[NodeProto], layers_by_constant: Mapping[str, str]) -> set[str]:
    """Return the layers that integer nodes compute, identified by weight, or else by name."""
    found: set[str] = set()
    for node in nodes:
        weight = node.input[INT8_OPERATORS[node.op_type]]
        found.add(layers_by_constant.get(weight, SUFFIX.sub("", node.name)))
    return found


def _layers_by_constant(model: ModelProto) -> dict[str, str]:
    """Return the layer's node name by the name of its weight, as stored and as dequantized."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    names: dict[str, str] = {}
    shared: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        weight = node.input[1]
        stored = made_by[weight].input[0] if weight in made_by else weight
        for name in {weight, stored}:
            if names.setdefault(name, node.name) != node.name:
                shared.add(name)
    return {name: layer for name, layer in names.items() if name not in shared}


def _explain(path: Path, source: ModelProto, missing: list[str], planned: int, runtime: str) -> str:
    count = f"{len(missing)} of the {planned} layers planned in int8"
    lines = [f"{runtime} runs {count} in float, although {path.name} quantizes them:"]
    lines += [f"  {layer}: {why_float(source, layer)}" for layer in missing[:10]]
    if len(missing) > 10:
        lines.append(f"  and {len(missing) - 10} more")
    lines.append("Keep them in float (`keep_float` in [quantize]), or report this as a bug.")
    return "\n".join(lines)
