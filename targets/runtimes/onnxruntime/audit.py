"""What ONNX Runtime's own optimized graph runs in int8, held against the plan."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto

from pipeline.artifacts import Audit, OnnxModel
from pipeline.errors import CompileError
from targets.runtimes.onnxruntime.fallback import why_float

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
    """Count the Conv and Gemm of an optimized graph; raise `CompileError` where planned int8 runs in float."""
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
    """The layers that integer nodes compute; a node is known by its weight, else by its name."""
    found: set[str] = set()
    for node in nodes:
        weight = node.input[INT8_OPERATORS[node.op_type]]
        found.add(layers_by_constant.get(weight, SUFFIX.sub("", node.name)))
    return found


def _layers_by_constant(model: ModelProto) -> dict[str, str]:
    """The name of each layer's weight, as stored and as dequantized → the layer's node name."""
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
    lines.append("Leave them in float on purpose (`keep_float` in [quantize]), or report this as a bug.")
    return "\n".join(lines)
