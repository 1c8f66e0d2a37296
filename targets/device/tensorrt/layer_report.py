"""What an engine really runs, read from TensorRT's engine inspector and held against the plan.

The inspector's JSON of an engine built with detailed profiling: `Layers`, each with `Name`, `LayerType`, `Inputs`,
`Outputs`, often `Weights`, and from 8.6 on `Metadata`, the ONNX nodes that it computes. A tensor's type is told in
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
# Move or rename data, and compute nothing.
MOVING = ("reformat", "noop", "constant", "shuffle", "identity", "cast", "signal", "wait")
TYPE_KEYS = ("DataType", "Datatype", "Format/Datatype", "Format/DataType", "Format")
TYPES = (("int8", ("int8",)), ("fp16", ("fp16", "half", "float16")), ("fp32", ("fp32", "float32", "float")))
ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
SEPARATOR = " + "


class LayerError(ModelError):
    """The engine does not run what was planned, or does not say what it runs."""


@dataclass(frozen=True)
class EngineLayer:
    """One layer of the engine; it may compute several nodes of the ONNX file."""

    name: str
    kind: str
    precision: str
    """int8, fp16, fp32, or unknown where the inspector does not say."""
    nodes: FrozenSet[str]
    """ONNX nodes that it computes, as far as it names them."""

    @property
    def computes(self) -> bool:
        return not self.is_reformat and self.kind.lower() not in MOVING

    @property
    def is_reformat(self) -> bool:
        return "reformat" in self.kind.lower() or self.name.startswith("Reformatting CopyNode")


@dataclass(frozen=True)
class LayerReport:
    """Every layer of an engine, in the order they run."""

    layers: Tuple[EngineLayer, ...]

    @property
    def reformats(self) -> int:
        """Copies that only change format or type: many of them mean int8 layers among float ones."""
        return sum(layer.is_reformat for layer in self.layers)

    def by_precision(self) -> Dict[str, int]:
        """Computing layers of each precision."""
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
    """The inspector's answer; raises `LayerError` where it is no detailed report."""
    try:
        raw: Any = json.loads(text)
    except ValueError as error:
        raise LayerError(f"the engine inspector's answer is no JSON: {error}.") from None
    layers: Any = raw.get("Layers") if isinstance(raw, dict) else None
    if not isinstance(layers, list) or not layers:
        raise LayerError("the engine inspector names no layers, so nothing is known of what the engine runs.")
    if not all(isinstance(layer, dict) for layer in layers):
        raise LayerError(
            "the engine inspector knows names alone: the engine was built without detailed profiling. Build it again."
        )
    return LayerReport(tuple(_layer(layer) for layer in layers))


def audit(report: LayerReport, *, int8: Sequence[str], kept_float: Sequence[str] = ()) -> None:
    """Hold the report against the plan; raises `LayerError` with the names and what they run in instead.

    `int8` are the Conv and Gemm that the plan has in int8, `kept_float` those it keeps in float, by ONNX node name.
    """
    wrong = []
    for node in int8:
        found = precisions_of(report, node)
        if "int8" not in found:
            wrong.append(f"{node}: {_text_of(found)}")
    if wrong:
        shown = "; ".join(wrong[:10]) + (f"; and {len(wrong) - 10} more" if len(wrong) > 10 else "")
        raise LayerError(
            f"TensorRT does not run {len(wrong)} of the {len(int8)} layers planned in int8 so: {shown}. Leave them in "
            "float on purpose (keep_float in [quantize]), or build fp16."
        )
    rounded = [node for node in kept_float if "int8" in precisions_of(report, node)]
    if rounded:
        raise LayerError(f"TensorRT runs {', '.join(rounded[:10])} in int8, although the plan keeps them in float.")


def precisions_of(report: LayerReport, node: str) -> FrozenSet[str]:
    """What the computing layers that name an ONNX node run in; empty where none does."""
    return frozenset(layer.precision for layer in report.layers if layer.computes and node in layer.nodes)


def _text_of(found: FrozenSet[str]) -> str:
    if not found:
        return "no layer of the engine names it"
    if found == {UNKNOWN}:
        return "the inspector does not tell its type"
    return f"runs in {' and '.join(sorted(found))}"


def _layer(raw: Mapping[str, Any]) -> EngineLayer:
    name, metadata = str(raw.get("Name", "")), str(raw.get("Metadata", ""))
    nodes = set(ONNX_LAYER.findall(metadata)) or set(_layer_names(name))
    return EngineLayer(name, str(raw.get("LayerType", UNKNOWN)), _precision(raw), frozenset(nodes))


def _layer_names(name: str) -> List[str]:
    """Before 8.6 a layer's name is all there is: the fused nodes' names with a plus between them."""
    return [part.strip() for part in re.sub(r"\|\|", SEPARATOR, name).split(SEPARATOR)]


def _precision(raw: Mapping[str, Any]) -> str:
    """Of the weights where the layer has some, since those decide which kernel multiplies; else of its first input."""
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
