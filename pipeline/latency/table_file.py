"""Validation of a latency table's file, which may come from another machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import RecipeError

MAX_BYTES = 64 << 20
"""Largest file; that of a ResNet-152 has some hundred kilobytes."""
Count = Annotated[int, Field(ge=1, le=1 << 20)]
Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e12, le=1e12)]
Time = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e12)]
Duration = Annotated[float, Field(allow_inf_nan=False, gt=0, le=1e12)]
Name = Annotated[str, Field(max_length=1000)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Cell(_Part):
    channels_in: Count = Field(alias="in")
    channels_out: Count = Field(alias="out")
    us: Time
    nodes: Time


class CheckedPart(_Part):
    widths: Mapping[Name, Count]
    removed: list[Name]
    predicted_ms: Finite
    measured_ms: Duration


class TimesPart(_Part):
    shapes: Mapping[Name, Annotated[list[Cell], Field(min_length=1)]]
    rest: Annotated[list[Finite], Field(min_length=2, max_length=2)]
    scale: Duration
    per_node: Finite
    checks: list[CheckedPart]


class TablePart(_Part):
    """The whole file except the schema's number."""

    architecture: Name
    target: Name
    machine: Mapping[Name, Name]
    runtime: Name
    threads: Annotated[int, Field(ge=1, le=1024)]
    full: Mapping[Name, Count]
    grid: Mapping[Name, Annotated[list[Count], Field(min_length=1)]]
    layers: Mapping[Name, Name]
    precisions: Annotated[Mapping[Name, TimesPart], Field(min_length=1)]


def check_table(raw: object) -> None:
    """Raise `ValueError` for an invalid table: NaN, text for numbers, a time below zero, a layer without times."""
    table = TablePart.model_validate(raw)
    for root in table.grid:
        if root not in table.full:
            raise ValueError(f"grid has {root}, which is not in full")
    for precision, times in table.precisions.items():
        lacking = sorted({shape for shape in table.layers.values() if shape not in times.shapes})
        if lacking:
            raise ValueError(f"{precision} has no times of {lacking[0]}")


def text_of(path: Path) -> str:
    """Return the file's text; raise `RecipeError` if it is too large, `OSError` and `ValueError`."""
    if path.stat().st_size > MAX_BYTES:
        raise RecipeError(f"{path} is not a latency table: it has more than {MAX_BYTES >> 20} MiB.")
    return path.read_text(encoding="utf-8")
