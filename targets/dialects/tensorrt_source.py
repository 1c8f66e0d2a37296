"""The ONNX file for one version of TensorRT, made from the TensorRT or float dialect.

    8.5, 8.6         opset 17, the newest that their parser supports; the dialect is written in 20
    10.0 to 10.11    unchanged
    10.12 and later  fp16, and int8 with layers kept in float: float16 between a Cast at either end; else unchanged

Strongly typed networks run in the types of the file. Casts are inserted here and not on the device, since that needs
the onnx package, which NVIDIA's images do not have; and in the file, not in TensorRT's network, so that ONNX Runtime
can run the same file as TensorRT. Scales become float16, too: a DequantizeLinear outputs the type of its scale, and a
Cast after it would separate it from its Conv. That rounds scales to 11 bits, so a network that is int8 throughout
stays in float32, in which only scaling is computed.
"""

from collections.abc import MutableSequence

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, defs, helper, numpy_helper

from pipeline.artifacts import Precision
from pipeline.errors import ExportError

OPSET_8 = 17
IR_8 = 8
FIRST_NEW_PARSER = (10, 0)
FIRST_STRONG = (10, 12)
# Newer schemas of these only add types, or attributes that `_check_old` finds; the computation is the same.
UNCHANGED = {
    "AveragePool": ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides"),
    "Cast": ("to",),
    "Constant": ("value",),
    "DequantizeLinear": ("axis",),
    "Flatten": ("axis",),
    "GlobalAveragePool": (),
    "Identity": (),
    "QuantizeLinear": ("axis",),
    "Reshape": ("allowzero",),
    "Shape": ("start", "end"),
}


def source_for(model: ModelProto, tensorrt: str, precision: Precision) -> ModelProto:
    """Return the model that TensorRT `tensorrt` (e.g. "10.3.0.30") builds `precision` from; raise `ExportError`."""
    number = tuple(int(part) for part in tensorrt.split(".")[:2])
    if number < FIRST_NEW_PARSER:
        return with_opset_17(model)
    if number >= FIRST_STRONG and precision is not Precision.FP32 and _computes_floats(model):
        return in_half(model)
    return _copy(model)


def _computes_floats(model: ModelProto) -> bool:
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    return any(layer.input[1] not in dequantized for layer in layers)


def with_opset_17(model: ModelProto) -> ModelProto:
    """Convert the graph for the parser of TensorRT 8; raise `ExportError` for operators that opset 17 lacks."""
    written = _copy(model)
    current = next(entry.version for entry in model.opset_import if entry.domain == "")
    if current <= OPSET_8:
        return written
    for node in written.graph.node:
        _check_old(node, current)
    next(entry for entry in written.opset_import if entry.domain == "").version = OPSET_8
    written.ir_version = min(written.ir_version, IR_8)
    return _check_model(written, "for TensorRT 8")


def in_half(model: ModelProto) -> ModelProto:
    """Convert the network to float16; inputs and outputs stay float32. Raises `ExportError`."""
    written = _copy(model)
    graph = written.graph
    for tensor in graph.initializer:
        _halve(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _halve(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    ends = [_cast_input(graph, value.name) for value in graph.input if _is_float(value)]
    tails = [_cast_output(graph, value.name) for value in graph.output if _is_float(value)]
    nodes = [*ends, *graph.node, *tails]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    return _check_model(written, "in float16")


def _check_old(node: NodeProto, current: int) -> None:
    old, new = (_since(node, version) for version in (OPSET_8, current))
    if old is not None and old == new:
        return
    known = UNCHANGED.get(node.op_type)
    strange = [] if known is None else [entry.name for entry in node.attribute if entry.name not in known]
    if old is None or known is None or strange:
        what = f"{node.op_type} with {', '.join(strange)}" if strange else node.op_type
        raise ExportError(
            f"{node.name}: TensorRT 8 supports ONNX opset {OPSET_8}, in which {what} differs from opset {current}. "
            "Choose a target with TensorRT 10 or later (JetPack 6.1)."
        )


def _since(node: NodeProto, version: int) -> int | None:
    try:
        return int(defs.get_schema(node.op_type, version, node.domain).since_version)
    except defs.SchemaError:
        return None


def _halve(tensor: TensorProto) -> None:
    if tensor.data_type != TensorProto.FLOAT:
        return
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= float(np.finfo(np.float16).max):
        raise ExportError(
            f"{tensor.name} contains {largest:.4g}, which is beyond float16; build fp32 for this network."
        )
    half = values.astype(np.float16)
    # A scale must stay above zero; 127 steps of the smallest float16 are only 8e-6.
    lost = (half == 0) & (values != 0)
    if tensor.name.endswith(".scale"):
        half = np.where(lost, np.finfo(np.float16).smallest_subnormal, half).astype(np.float16)
    tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))


def _cast_input(graph: GraphProto, name: str) -> NodeProto:
    half = f"{name}.half"
    for node in graph.node:
        _rename(node.input, name, half)
    return helper.make_node("Cast", [name], [half], name=f"{name}.cast", to=TensorProto.FLOAT16)


def _cast_output(graph: GraphProto, name: str) -> NodeProto:
    half = f"{name}.half"
    for node in graph.node:
        _rename(node.input, name, half)
        _rename(node.output, name, half)
    return helper.make_node("Cast", [half], [name], name=f"{name}.cast", to=TensorProto.FLOAT)


def _rename(names: MutableSequence[str], old: str, new: str) -> None:
    for index, name in enumerate(names):
        if name == old:
            names[index] = new


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type == TensorProto.FLOAT


def _check_model(model: ModelProto, what: str) -> ModelProto:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the network cannot be written {what}: {error}. This is a bug in Edge Deploy; please report it."
        ) from None
    return model


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy
