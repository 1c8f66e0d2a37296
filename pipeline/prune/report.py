"""Report of the cuts considered for a time budget: the importance each loses and the time it gains, with a chart.

The chart is a horizontal bar chart as SVG, without a plotting library.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from torch import Tensor

from pipeline.latency.subnetwork import Subnetwork
from pipeline.latency.table import CHOICE, Pace
from pipeline.models.surgery import Group
from pipeline.prune.by_cost import cumulative_losses
from pipeline.prune.by_latency import Clock, Losses
from pipeline.prune.trials import Deadline, Trial
from pipeline.workspace.hashing import Json

LINE, LABEL, BARS, NOTE, TITLE = 16, 260, 360, 200, 40
PLAIN, MARKED = "#9db4c8", "#c4512d"
DECADES = 4.0
"""Range of the logarithmic axis below its largest value."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    label: str
    value: float | None
    """None: no bar."""
    note: str
    is_marked: bool


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    bars: tuple[Bar, ...]


def chart(title: str, rows: Sequence[Row]) -> str:
    """Return all rows below each other, bars on one logarithmic axis; marked ones in another color."""
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
    """Return the position on the axis; the smallest bar is very thin but visible."""
    if value <= 0:
        return 0.005
    return max(0.005, 1 + math.log10(value / largest) / DECADES)


FILE, CHART = CHOICE, "sensitivity.svg"


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One group at one width, or one removed block, with everything else unchanged."""

    width: int
    """0: the block is removed."""
    loss: float
    """Expected squared change of the logits, per image."""
    gain_us: float
    """Microseconds of CPU time by the table; negative if the narrower layer is slower."""
    is_chosen: bool


def losses_of(
    groups: Sequence[Group],
    scores: Mapping[str, Tensor],
    blocks: Mapping[str, float],
    grid: Mapping[str, Sequence[int]],
    *,
    images: int,
) -> Losses:
    """Return the importance lost per image at each width of the grid; `scores` and `blocks` are sums over `images`."""
    summed = cumulative_losses(groups, scores)
    widths = {
        group.root: {
            width: summed[group.root][(group.width - width) // group.parts] / images for width in grid[group.root]
        }
        for group in groups
    }
    return Losses(widths=widths, blocks={block: change / images for block, change in blocks.items()})


def sensitivity(
    clock: Clock, losses: Losses, full: Mapping[str, int], chosen: Subnetwork
) -> dict[str, tuple[Cut, ...]]:
    """Return every cut by group, then by block."""
    start = clock.latency_us(Subnetwork(widths=full))
    found: dict[str, tuple[Cut, ...]] = {}
    for root, widths in losses.widths.items():
        found[root] = tuple(
            Cut(
                width=width,
                loss=loss,
                gain_us=start - clock.latency_us(Subnetwork(widths={**full, root: width})),
                is_chosen=chosen.widths[root] == width,
            )
            for width, loss in sorted(widths.items())
        )
    for block, loss in losses.blocks.items():
        without = Subnetwork(widths=full, removed=frozenset({block}))
        gain = start - clock.latency_us(without)
        found[block] = (Cut(width=0, loss=loss, gain_us=gain, is_chosen=block in chosen.removed),)
    return found


def write_report(
    folder: Path,
    cuts: Mapping[str, Sequence[Cut]],
    *,
    pace: Pace,
    unpruned_us: float,
    deadline: Deadline,
    trial: Trial,
    trials: Sequence[Trial],
    contest: Sequence[Json] = (),
) -> None:
    """Write `sensitivity.json` and `sensitivity.svg`; `pace` is the table used for the cuts.

    `contest`: facts about the cuts that were tried (`pipeline.prune.tournament`).
    """
    predicted_us, latency = trial.predicted_us, deadline.latency_us
    facts = {
        "precision": pace.precision,
        "machine": dict(pace.table.machine),
        "unpruned_ms": unpruned_us / 1e3,
        "asked": {"latency_ms": latency and latency / 1e3, "speedup": deadline.speedup},
        "budget_ms": trial.budget_us / 1e3,
        "predicted_ms": predicted_us / 1e3,
        "measured": trial.timing and asdict(trial.timing),
        "not_measured": pace.elsewhere,
        "trials": [
            {
                "budget_ms": each.budget_us / 1e3,
                "predicted_ms": each.predicted_us / 1e3,
                "measured": each.timing and asdict(each.timing),
            }
            for each in trials
        ],
        "removed_blocks": sorted(trial.chosen.removed),
        "contest": list(contest),
        "cuts": {name: [asdict(cut) for cut in each] for name, each in cuts.items()},
    }
    (folder / FILE).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    rows = [_row(name, each) for name, each in cuts.items()]
    title = (
        f"Importance lost per microsecond gained, {pace.precision}: "
        f"{unpruned_us / 1e3:.3g} ms unpruned, {predicted_us / 1e3:.3g} ms chosen"
    )
    (folder / CHART).write_text(chart(title, rows), encoding="utf-8")


def _row(name: str, cuts: Sequence[Cut]) -> Row:
    """Return a row with a bar for cuts that lose importance and gain time, and text for the others."""
    bars = [
        Bar(
            label="left out" if cut.width == 0 else f"{cut.width}",
            value=cut.loss / cut.gain_us if cut.gain_us > 0 else None,
            note=f"loss {cut.loss:.3g}, {cut.gain_us:+.1f} µs",
            is_marked=cut.is_chosen,
        )
        for cut in cuts
        if cut.loss > 0 or cut.gain_us != 0
    ]
    return Row(name=name, bars=tuple(bars))
