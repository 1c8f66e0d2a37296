"""A latency table: times of a network's layer shapes by width, and the predicted time of a whole network.

    latency of a subnetwork = scale * (rest + sum of its layers' times) + per_node * nodes

A layer's time includes its convolution and everything that runs after it up to the next layer (addition, pooling,
layout changes), as the runtime fused them in a real graph. Times come from the runtime's profiler; `scale` and
`per_node` are fitted to whole networks timed without it, since a profiler slows the nodes and does not see the time
between them. Layers of the same shape share their times. Widths between those of the grid are interpolated.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import ValidationError

from pipeline.errors import CompressionError, RecipeError
from pipeline.latency.table_file import check_table, text_of
from pipeline.untrusted import on_one_line, parse_json

SCHEMA = 1
FILE = "table.json"
CHOICE = "sensitivity.json"
"""File of stage `prune`: what was chosen by a table, and why."""
Cells = Mapping[tuple[int, int], tuple[float, float]]
"""Input and output channels → microseconds, and nodes that the runtime runs (may depend on the widths)."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """Predicted and measured time of a subnetwork that was not used for the fit."""

    widths: Mapping[str, int]
    removed: tuple[str, ...]
    predicted_ms: float
    measured_ms: float

    @property
    def error(self) -> float:
        return self.predicted_ms / self.measured_ms - 1


@dataclass(frozen=True, kw_only=True)
class Times:
    """Times in one precision."""

    shapes: Mapping[str, Cells]
    rest: tuple[float, float]
    """Microseconds and nodes before the first layer."""
    scale: float
    per_node: float
    """Microseconds."""
    checks: tuple[Check, ...]

    @property
    def error(self) -> float:
        """The largest absolute relative error of the checks."""
        return max((abs(check.error) for check in self.checks), default=0.0)

    def layer_us(self, shape: str, inputs: int, outputs: int) -> float:
        """Return the microseconds that one layer adds to the whole network."""
        microseconds, nodes = self._raw(shape, inputs, outputs)
        return self.scale * microseconds + self.per_node * nodes

    @property
    def rest_us(self) -> float:
        return self.scale * self.rest[0] + self.per_node * self.rest[1]

    def _raw(self, shape: str, inputs: int, outputs: int) -> tuple[float, float]:
        cells = self.shapes[shape]
        found = cells.get((inputs, outputs))
        if found is not None:
            return found
        ins, outs = self._axes[shape]
        microseconds, nodes = (
            _bilinear(ins, outs, {cell: value[index] for cell, value in cells.items()}, inputs, outputs)
            for index in (0, 1)
        )
        return microseconds, nodes

    @cached_property
    def _axes(self) -> dict[str, tuple[list[int], list[int]]]:
        return {
            shape: (sorted({i for i, _ in cells}), sorted({o for _, o in cells}))
            for shape, cells in self.shapes.items()
        }


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Times of one architecture on one machine."""

    architecture: str
    target: str
    machine: Mapping[str, str]
    """CPU and instruction set."""
    runtime: str
    threads: int
    full: Mapping[str, int]
    """Width of every group, by its root."""
    grid: Mapping[str, tuple[int, ...]]
    """Timed widths, ascending, by the group's root."""
    layers: Mapping[str, str]
    """Layer → its shape."""
    precisions: Mapping[str, Times]

    def to_json(self) -> str:
        raw = asdict(self)
        for name, times in self.precisions.items():
            raw["precisions"][name]["shapes"] = {
                shape: [
                    {"in": i, "out": o, "us": round(us, 3), "nodes": nodes}
                    for (i, o), (us, nodes) in sorted(cells.items())
                ]
                for shape, cells in times.shapes.items()
            }
        return json.dumps({"schema": SCHEMA, **raw}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the output of `to_json`; raise `ValueError`, `KeyError` or `TypeError` for anything else."""
        raw = parse_json(text)
        schema = raw.pop("schema")
        if schema != SCHEMA:
            raise ValueError(f"schema {on_one_line(str(schema), longest=40)}; only {SCHEMA} is supported")
        check_table(raw)
        raw["grid"] = {root: tuple(widths) for root, widths in raw["grid"].items()}
        raw["precisions"] = {name: _times(each) for name, each in raw["precisions"].items()}
        return cls(**raw)


def read_table(path: Path) -> LatencyTable:
    """Read a table written by `deploy profile`, on any machine; raise `RecipeError`."""
    try:
        return LatencyTable.from_json(text_of(path))
    except OSError as error:
        raise RecipeError(
            f"the latency table {path} cannot be read: {error.strerror}. `deploy profile` makes one."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecipeError(
            f"{path} is not a latency table of this version ({_reason(error)}). `deploy profile --output` makes one."
        ) from None


@dataclass(frozen=True, kw_only=True)
class Timing:
    """CPU milliseconds of one image, all timed in turn; medians of several runs."""

    unpruned_ms: float
    """The unpruned network in the table's precision."""
    pruned_ms: float
    noise: float
    """Relative uncertainty of the ratio pruned / unpruned."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """A table, and the precision whose times are used."""

    table: LatencyTable
    precision: str
    target: str
    source: str
    """Origin of the table, for messages."""
    elsewhere: str | None = None
    """Why this machine cannot confirm the table's times; None if it can."""

    def check(self, full: Mapping[str, int]) -> None:
        """Raise `CompressionError` if the table is for another target, or for a network with other widths."""
        table = self.table
        if table.target != self.target:
            raise CompressionError(f"{self.source} is for the target {table.target}, not for {self.target}.")
        if dict(table.full) != dict(full):
            raise CompressionError(
                f"{self.source} is for another network ({table.architecture}): its groups of channels or their "
                "widths differ. Profile this one: `deploy profile --checkpoint …`."
            )
        if self.precision not in table.precisions:
            raise CompressionError(
                f"{self.source} has no times in {self.precision}, only in {', '.join(table.precisions)}."
            )


def _times(raw: Mapping[str, object]) -> Times:
    values = dict(raw)
    shapes: dict[str, Cells] = {}
    for shape, cells in values.pop("shapes").items():  # type: ignore[attr-defined]
        shapes[shape] = {(int(c["in"]), int(c["out"])): (float(c["us"]), float(c["nodes"])) for c in cells}
    checks = tuple(
        Check(**{**check, "removed": tuple(check["removed"])})
        for check in values.pop("checks")  # type: ignore[attr-defined]
    )
    rest = tuple(values.pop("rest"))  # type: ignore[arg-type, var-annotated]
    return Times(shapes=shapes, checks=checks, rest=(float(rest[0]), float(rest[1])), **values)  # type: ignore[arg-type]


def _reason(error: Exception) -> str:
    """Return the error in one line: of many mistakes in a file only the first."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        return on_one_line(f"{place or 'all of it'}: {first['msg']}")
    return on_one_line(f"{type(error).__name__}: {error}")


def _bilinear(
    ins: list[int], outs: list[int], values: Mapping[tuple[int, int], float], inputs: int, outputs: int
) -> float:
    """Return the interpolated value; widths beyond the grid use its edge, as pruning never leaves them."""
    by_output = [float(np.interp(inputs, ins, [values[i, o] for i in ins])) for o in outs]
    return float(np.interp(outputs, outs, by_output))
