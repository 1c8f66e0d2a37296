"""The layers an engine really runs, read from TensorRT's engine inspector, and their audit against the plan.

The inspector's JSON of an engine built with detailed profiling: `Layers`, each with `Name`, `LayerType`, `Inputs`,
`Outputs`, often `Weights`, and from 8.6 on `Metadata`, the ONNX nodes that it computes. A tensor's type is in
`Format/Datatype` up to TensorRT 10 and in `DataType` beside `Format` from 11 on. Sources: the developer guide on the
inspector, and its page "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x".
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, List, Mapping, Sequence, Tuple

from targets.device.errors import ModelError

UNKNOWN = "unknown"
# Layers that move or rename data and compute nothing.
MOVING = ("reformat", "noop", "constant", "shuffle", "identity", "cast", "signal", "wait")
TYPE_KEYS = ("DataType", "Datatype", "Format/Datatype", "Format/DataType", "Format")
TYPES = (("int8", ("int8",)), ("fp16", ("fp16", "half", "float16")), ("fp32", ("fp32", "float32", "float")))
ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
SEPARATOR = " + "


class LayerError(ModelError):
    """The engine does not run as planned, or its inspector gives no usable information."""


@dataclass(frozen=True)
class EngineLayer:
    """One layer of the engine; it may compute several nodes of the ONNX file."""

    name: str
    kind: str
    precision: str
    """int8, fp16, fp32, or unknown if the inspector does not report it."""
    nodes: FrozenSet[str]
    """ONNX nodes that it computes, as far as they are named."""

    @property
    def computes(self) -> bool:
        return not self.is_reformat and self.kind.lower() not in MOVING

    @property
    def is_reformat(self) -> bool:
        return "reformat" in self.kind.lower() or self.name.startswith("Reformatting CopyNode")


@dataclass(frozen=True)
class LayerReport:
    """The layers of an engine, in execution order."""

    layers: Tuple[EngineLayer, ...]

    @property
    def reformats(self) -> int:
        """Number of copies that only change format or type; many of them indicate int8 layers among float ones."""
        return sum(layer.is_reformat for layer in self.layers)

    def by_precision(self) -> Dict[str, int]:
        """Return the number of computing layers by precision."""
        return dict(sorted(Counter(layer.precision for layer in self.layers if layer.computes).items()))

    def by_kind(self) -> Dict[str, int]:
        return dict(sorted(Counter(layer.kind for layer in self.layers).items()))

    def as_json(self) -> Dict[str, Any]:
        return {
            "by_precision": self.by_precision(),
            "reformats": self.reformats,
            "layers": [
                {"name": layer.name, "kind": layer.kind, "precision": layer.precision, "nodes": sorted(layer.nodes)}
                for layer in self.layers
            ],
        }


def read_report(text: str) -> LayerReport:
    """Parse the inspector's output; raise `LayerError` if it is not a detailed report."""
    try:
        raw: Any = json.loads(text)
    except ValueError as error:
        raise LayerError(f"the engine inspector's output is not valid JSON: {error}.") from None
    layers: Any = raw.get("Layers") if isinstance(raw, dict) else None
    if not isinstance(layers, list) or not layers:
        raise LayerError("the engine inspector reports no layers, so the engine cannot be audited.")
    if not all(isinstance(layer, dict) for layer in layers):
        raise LayerError(
            "the engine inspector reports only names: the engine was built without detailed profiling. Build it again."
        )
    return LayerReport(tuple(_layer(layer) for layer in layers))


def audit(report: LayerReport, *, int8: Sequence[str], kept_float: Sequence[str] = ()) -> None:
    """Compare the report with the plan; raise `LayerError` with the layers that differ and their precisions.

    `int8` are the Conv and Gemm planned in int8, `kept_float` those planned in float, by ONNX node name.
    """
    wrong = []
    for node in int8:
        found = precisions_of(report, node)
        if "int8" not in found:
            wrong.append(f"{node}: {_text_of(found)}")
    if wrong:
        shown = "; ".join(wrong[:10]) + (f"; and {len(wrong) - 10} more" if len(wrong) > 10 else "")
        raise LayerError(
            f"TensorRT does not run {len(wrong)} of the {len(int8)} layers planned in int8 as int8: {shown}. Keep "
            "them in float (keep_float in [quantize]), or build fp16."
        )
    rounded = [node for node in kept_float if "int8" in precisions_of(report, node)]
    if rounded:
        raise LayerError(f"TensorRT runs {', '.join(rounded[:10])} in int8, although the plan keeps them in float.")


def precisions_of(report: LayerReport, node: str) -> FrozenSet[str]:
    """Return the precisions of the computing layers that contain an ONNX node; empty if there are none."""
    return frozenset(layer.precision for layer in report.layers if layer.computes and node in layer.nodes)


def _text_of(found: FrozenSet[str]) -> str:
    if not found:
        return "no layer of the engine contains it"
    if found == {UNKNOWN}:
        return "the inspector does not report its type"
    return f"runs in {' and '.join(sorted(found))}"


def _layer(raw: Mapping[str, Any]) -> EngineLayer:
    name, metadata = str(raw.get("Name", "")), str(raw.get("Metadata", ""))
    nodes = set(ONNX_LAYER.findall(metadata)) or set(_layer_names(name))
    return EngineLayer(name, str(raw.get("LayerType", UNKNOWN)), _precision(raw), frozenset(nodes))


def _layer_names(name: str) -> List[str]:
    """Split a layer's name into its fused nodes' names, separated by plus; before 8.6 there is no metadata."""
    return [part.strip() for part in re.sub(r"\|\|", SEPARATOR, name).split(SEPARATOR)]


def _precision(raw: Mapping[str, Any]) -> str:
    """Return the precision of the weights, which decide the kernel, or without weights of the first input."""
    weights = raw.get("Weights")
    if isinstance(weights, dict) and int(weights.get("Count", 0)) > 0:
        found = _type_of(str(weights.get("Type", "")))
        if found != UNKNOWN:
            return found
    inputs = raw.get("Inputs") or [{}]
    first = inputs[0] if isinstance(inputs[0], dict) else {}
    for key in TYPE_KEYS:
        found = _type_of(str(first.get(key, "")))
        if found != UNKNOWN:
            return found
    return UNKNOWN


def _type_of(text: str) -> str:
    lowered = text.lower()
    return next((name for name, words in TYPES if any(word in lowered for word in words)), UNKNOWN)
