"""Audit of an engine: the precision of its layers, from the inspector's report in its proof, against the plan.

A layer planned in int8 that runs in another precision is an error, as on a CPU. A layer that the inspector does not
list, or whose type it does not report, counts as untold: its output differs between versions.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import OnnxModel
from pipeline.errors import CompileError, DeviceError
from targets.device.tensorrt.layer_report import UNKNOWN, EngineLayer, LayerReport, precisions_of

PLAN = "plan.json"
SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class EngineAudit:
    planned: int
    """Conv and Gemm nodes planned in int8."""
    int8: int
    """Those of them that run in int8."""
    other: Mapping[str, str]
    """Those of them that run in another precision, and its name."""
    untold: tuple[str, ...]
    reformats: int
    """Layers that only change format or type."""

    @property
    def text(self) -> str:
        untold = f", {len(self.untold)} not reported by its inspector" if self.untold else ""
        return f"{self.int8} of {self.planned} planned layers in int8{untold}, {self.reformats} reformats"


def write_plan(model: OnnxModel, folder: Path) -> None:
    """Write, beside an artifact, which nodes its engine must run in int8, and which not."""
    plan = {"int8": list(model.quantized_layers), "float": list(model.float_layers)}
    (folder / PLAN).write_text(json.dumps(plan, indent=1) + "\n")


def audit_engine(artifact: Path, layers: Mapping[str, Any]) -> EngineAudit:
    """Compare an engine's `layers.json` with its artifact's plan; raise `DeviceError` for a damaged one."""
    try:
        report = LayerReport(
            tuple(
                EngineLayer(str(each["name"]), str(each["kind"]), str(each["precision"]), frozenset(each["nodes"]))
                for each in layers["layers"]
            )
        )
    except (KeyError, TypeError) as error:
        raise DeviceError(f"the report of the engine's layers is damaged: {error!r}. Update the image.") from None
    planned = json.loads((artifact / PLAN).read_text())["int8"]
    found = {node: precisions_of(report, node) for node in planned}
    untold = tuple(node for node, precisions in found.items() if not precisions - {UNKNOWN})
    other = {
        node: " and ".join(sorted(precisions - {UNKNOWN}))
        for node, precisions in found.items()
        if node not in untold and "int8" not in precisions
    }
    return EngineAudit(
        planned=len(planned),
        int8=len(planned) - len(untold) - len(other),
        other=other,
        untold=untold,
        reformats=report.reformats,
    )


def check_engine(audit: EngineAudit, device: str) -> None:
    """Raise `CompileError` if a planned layer runs in another precision."""
    if not audit.other:
        return
    named = [f"{node} in {precisions}" for node, precisions in audit.other.items()]
    rest = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    raise CompileError(
        f"the engine on {device} runs {len(named)} of {audit.planned} layers planned in int8 in another precision: "
        f"{', '.join(named[:SHOWN])}{rest}. Its accuracy is proven, but its speed is not that of int8: keep them "
        "in float explicitly (keep_float in [quantize]), or build fp16."
    )
