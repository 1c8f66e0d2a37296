"""Why ONNX Runtime may have left a quantized Conv or Gemm in float: its fusion rules, read off the graph.

The rules (`qdq_selector_action_transformer.cc`, `relu_quantizelinear.cc` of ONNX Runtime 1.32):

    DQ(x) ─┐
    DQ(w) ─┼─ Conv ─ [Relu] ─ Q        every input dequantized, the one output quantized;
    DQ(b) ─┘                           a Relu goes only where Q's zero point is its type's smallest value
"""

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

UNKNOWN = "ONNX Runtime gives no reason"


def why_float(model: ModelProto, layer: str) -> str:
    """The likely reason in plain words."""
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
            return f"its output {output} is the model's own and not quantized"
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
        return "its bias does not lie on the grid of input scale times weight scale"

    def _relu_reason(self, relu: NodeProto, quantize: NodeProto) -> str | None:
        zero_point = self._constant(quantize.input[2]) if len(quantize.input) > 2 else None
        if zero_point is None or zero_point.item() == np.iinfo(zero_point.dtype).min:
            return None
        return (
            f"the Relu {relu.name} after it stays, as the zero point {zero_point.item()} of {zero_point.dtype} "
            f"is not that type's smallest value"
        )

    def _constant(self, name: str) -> np.ndarray | None:
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def _is_made_by(self, name: str, operator: str) -> bool:
        return name in self._made_by and self._made_by[name].op_type == operator
