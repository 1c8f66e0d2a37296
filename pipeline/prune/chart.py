"""A horizontal bar chart as SVG, without a plotting library."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LINE, LABEL, BARS, NOTE, TITLE = 16, 260, 360, 200, 40
PLAIN, MARKED = "#9db4c8", "#c4512d"
DECADES = 4.0
"""What the logarithmic axis spans below its largest value."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    label: str
    value: float | None
    """None where there is none to draw."""
    note: str
    is_marked: bool


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    bars: tuple[Bar, ...]


def chart(title: str, rows: Sequence[Row]) -> str:
    """All rows under each other, bars on one logarithmic axis; those marked in another color."""
    lines = [(row.name if index == 0 else "", bar) for row in rows for index, bar in enumerate(row.bars)]
    largest = max((bar.value for _, bar in lines if bar.value), default=1.0)
    width, height = LABEL + BARS + NOTE, TITLE + LINE * (len(lines) + 1)
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="8" y="18" font-size="13">{escape(title)}</text>',
        f'<text x="8" y="34" fill="{MARKED}">chosen</text>',
        '<text x="60" y="34" fill="#555">logarithmic axis; no bar: no time gained</text>',
    ]
    for index, (name, bar) in enumerate(lines):
        parts += _line(TITLE + LINE * (index + 1), name, bar, largest)
    return "\n".join([*parts, "</svg>", ""])


def _line(y: int, name: str, bar: Bar, largest: float) -> list[str]:
    color, words = (MARKED, MARKED) if bar.is_marked else (PLAIN, "#333")
    length = 0.0 if bar.value is None else BARS * _share(bar.value, largest)
    return [
        f'<text x="8" y="{y}">{escape(name)}</text>',
        f'<text x="{LABEL - 8}" y="{y}" text-anchor="end" fill="{words}">{escape(bar.label)}</text>',
        f'<rect x="{LABEL}" y="{y - 10}" width="{length:.1f}" height="11" fill="{color}"/>',
        f'<text x="{LABEL + length + 6:.1f}" y="{y}" fill="#555">{escape(bar.note)}</text>',
    ]


def _share(value: float, largest: float) -> float:
    """Of the axis; the smallest that is drawn is a hair."""
    if value <= 0:
        return 0.005
    return max(0.005, 1 + math.log10(value / largest) / DECADES)
