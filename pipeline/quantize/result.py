"""Layers returned to float because int8 alone would have lost too much, with the gain and cost of each."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import WorkspaceError
from pipeline.workspace.store import TIMINGS

SCHEMA = 1
FILE = "rescue.json"
FACTS = "quantize.json"


@dataclass(frozen=True, kw_only=True)
class FloatLayer:
    name: str
    divergence: float
    """Of the answers with only this layer in int8 from float's, in nats."""
    gain_points: float
    """Points of top-1 that would be lost in addition with this layer in int8."""
    cost_ms: float | None
    """CPU time that this layer in float adds to the int8 network; None if the target cannot be timed here."""


@dataclass(frozen=True, kw_only=True)
class Rescue:
    images: int
    """Of the selection split."""
    max_drop: float
    int8_drop_points: float
    """Loss with int8 in every layer, against the network before it was quantized."""
    drop_points: float
    """Loss with `layers` in float."""
    layers: tuple[FloatLayer, ...]
    """The most fragile first; empty if even half of the layers would not have sufficed."""
    divergences: Mapping[str, float]
    """Of each layer, alone in int8."""
    int8_ms: float | None
    """CPU time of one image with every layer in int8."""
    mixed_ms: float | None
    """With `layers` in float, in the same run."""


def write_rescue(rescue: Rescue, folder: Path) -> None:
    """Write reproducible results to `rescue.json`, times to `timings.json`."""
    facts = asdict(rescue)
    timings = {name: facts.pop(name) for name in ("int8_ms", "mixed_ms")}
    timings["cost_ms"] = {layer["name"]: layer.pop("cost_ms") for layer in facts["layers"]}
    (folder / FILE).write_text(json.dumps({"schema": SCHEMA, **facts}, indent=1, sort_keys=True) + "\n")
    (folder / TIMINGS).write_text(json.dumps(timings, indent=1, sort_keys=True) + "\n")


def read_rescue(folder: Path) -> Rescue:
    """Return the rescue; raise `WorkspaceError` if the folder is damaged."""
    try:
        facts = json.loads((folder / FILE).read_text())
        timings = json.loads((folder / TIMINGS).read_text())
        del facts["schema"]
        costs = timings.pop("cost_ms")
        layers = tuple(FloatLayer(**layer, cost_ms=costs[layer["name"]]) for layer in facts.pop("layers"))
        return Rescue(layers=layers, **facts, **timings)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(f"{folder} is damaged ({error!r}). Remove it and run again.") from None


def quantization_drop(folder: Path) -> float:
    """Return the points of top-1 that the quantized network of a quantize folder loses on the selection split.

    Against the network before it was quantized, pruned or not: losses of pruning are not counted.
    """
    try:
        facts = json.loads((folder / FACTS).read_text())
        # From counts: a drop of exactly the margin must not exceed it by a rounding error.
        return float(100 * (facts["float"]["right"] - facts[facts["kept"]]["right"]) / facts["images"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(f"{folder} is damaged ({error!r}). Remove it and run again.") from None
