"""Which channels and which residual blocks go so that a network takes a stated time and loses least importance.

As in HALP (Shen et al. 2022, https://arxiv.org/abs/2110.10811) the widths of all layers are one knapsack: importance
is what is packed, measured latency is the weight. Two things are better than there. A layer's time hangs on both its
widths; HALP takes the one before it as it is at the moment. Here the widths of residual streams, on which all else
depends, are fixed first; what then remains falls into blocks that do not touch each other, each of which has one exact
time for each choice of the widths inside it, or none where it is left out as a whole. That multiple-choice knapsack is
solved exactly (`pipeline.knapsack`). The streams' own widths are all tried where they are few; else they descend one
by one, from the full network and from the fastest, until none of them can be improved alone.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import CompressionError
from pipeline.knapsack import MOST_POINTS, Option, solve
from pipeline.latency import LatencyTable, Times
from pipeline.subnetwork import Site, Subnetwork

MOST_OPTIONS = 512
"""Of one item; an item with more gives one of its groups to those that are fixed first."""
MOST_TRIED = 64
"""Combinations of the fixed groups up to which all are tried."""
ROUGH_POINTS = 400
"""Of a front, while the streams' widths are still moving."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Importance lost, all in one unit; see `pipeline.importance`."""

    widths: Mapping[str, Mapping[int, float]]
    """By group and the width it keeps."""
    blocks: Mapping[str, float]
    """By residual block that may be left out."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """Groups that are chosen together, and the layers whose times hang on them."""

    groups: tuple[str, ...]
    layers: tuple[str, ...]
    block: str | None
    """Which may be left out, with its layers."""


@dataclass(frozen=True)
class Choice:
    """One option of an item in words."""

    widths: Mapping[str, int]
    is_removed: bool


Rank = Callable[[Mapping[str, int]], tuple[float, ...]]
"""How good the widths of the fixed groups are; less is better."""


class Clock:
    """The time of a subnetwork by a table, and the best subnetwork for a time."""

    def __init__(self, table: LatencyTable, precision: str, layers: Mapping[str, Site], losses: Losses) -> None:
        self._times: Times = table.precisions[precision]
        self._full, self._grid, self._shapes = table.full, table.grid, table.layers
        self._layers, self._losses = layers, losses
        self._fixed, self._items = _structure(layers, table.grid, tuple(losses.blocks))
        inside = {name for item in self._items for name in item.layers}
        self._outside = tuple(name for name in layers if name not in inside)
        self._cache: dict[tuple[str, int, int], float] = {}

    def latency_us(self, subnetwork: Subnetwork) -> float:
        """Microseconds of CPU time that the table predicts."""
        left = [name for name in self._layers if not _is_in(name, subnetwork.removed)]
        return self._times.rest_us + self._sum(left, subnetwork.widths)

    def loss(self, subnetwork: Subnetwork) -> float:
        """Importance lost; groups inside a removed block count with the block alone."""
        gone = {root for item in self._items if item.block in subnetwork.removed for root in item.groups}
        widths = ((root, width) for root, width in subnetwork.widths.items() if root not in gone)
        return sum(self._losses.widths[root][width] for root, width in widths) + sum(
            self._losses.blocks[block] for block in subnetwork.removed
        )

    def fastest(self) -> Subnetwork:
        """The fewest microseconds that were found, whatever they cost."""
        fixed = self._descend(dict(self._full), lambda fixed: (self._least(fixed),))
        fixed = min(self._tried(fixed), key=self._least)
        picks = []
        for item in self._items:
            choices = list(self._choices(item, fixed))
            picks.append(min(choices, key=lambda choice: choice[1].cost)[0])
        return self._subnetwork(fixed, picks)

    def fit(self, budget_us: float) -> Subnetwork:
        """The subnetwork that loses least within `budget_us`; raises `CompressionError` where none was found."""
        fastest = self.fastest()
        least = self.latency_us(fastest)
        if least > budget_us:
            full = self.latency_us(Subnetwork(widths=self._full))
            raise CompressionError(
                f"a latency of {budget_us / 1e3:.4g} ms cannot be reached: the fastest network of this architecture "
                f"takes {least / 1e3:.4g} ms by the table (unpruned: {full / 1e3:.4g} ms). Ask for at least that "
                f"(a speedup of at most {full / least:.3g}), or train a smaller network."
            )

        def rank(fixed: Mapping[str, int]) -> tuple[float, float]:
            found = self._solved(fixed, budget_us, ROUGH_POINTS)
            return (math.inf, self._least(fixed)) if found is None else (self.loss(found), 0.0)

        if self._combinations <= MOST_TRIED:
            best = min(self._tried({}), key=rank)
        else:
            starts = [dict(self._full), {root: fastest.widths[root] for root in self._fixed}]
            best = min((self._descend(start, rank) for start in starts), key=rank)
        solved = self._solved(best, budget_us, MOST_POINTS)
        return fastest if solved is None else solved

    @property
    def _combinations(self) -> int:
        return math.prod(len(self._grid[root]) for root in self._fixed)

    def _tried(self, otherwise: Mapping[str, int]) -> Iterator[dict[str, int]]:
        """All widths of the fixed groups where they are few, else those given."""
        if self._combinations > MOST_TRIED:
            yield {root: otherwise[root] for root in self._fixed}
            return
        for widths in itertools.product(*(self._grid[root] for root in self._fixed)):
            yield dict(zip(self._fixed, widths, strict=True))

    def _descend(self, start: Mapping[str, int], rank: Rank) -> dict[str, int]:
        widths = {root: start[root] for root in self._fixed}
        reached = rank(widths)
        improved = True
        while improved:
            improved = False
            for root in self._fixed:
                for width in self._grid[root]:
                    moved = {**widths, root: width}
                    found = rank(moved)
                    if found < reached:
                        widths, reached, improved = moved, found, True
        return widths

    def _solved(self, fixed: Mapping[str, int], budget_us: float, most_points: int) -> Subnetwork | None:
        left = budget_us - self._times.rest_us - self._sum(self._outside, fixed)
        items = [list(self._choices(item, fixed)) for item in self._items]
        picks = solve([[option for _, option in choices] for choices in items], left, most_points=most_points)
        if picks is None:
            return None
        return self._subnetwork(fixed, [choices[pick][0] for choices, pick in zip(items, picks, strict=True)])

    def _subnetwork(self, fixed: Mapping[str, int], choices: Sequence[Choice]) -> Subnetwork:
        widths = dict(fixed)
        for choice in choices:
            widths |= choice.widths
        removed = {item.block for item, choice in zip(self._items, choices, strict=True) if choice.is_removed}
        return Subnetwork(
            widths={root: widths[root] for root in self._grid}, removed=frozenset(block for block in removed if block)
        )

    def _least(self, fixed: Mapping[str, int]) -> float:
        """Microseconds with the fastest choice for every item."""
        items = (min(option.cost for _, option in self._choices(item, fixed)) for item in self._items)
        return self._times.rest_us + self._sum(self._outside, fixed) + sum(items)

    def _choices(self, item: Item, fixed: Mapping[str, int]) -> Iterator[tuple[Choice, Option]]:
        for widths in itertools.product(*(self._grid[root] for root in item.groups)):
            chosen = dict(zip(item.groups, widths, strict=True))
            cost = self._sum(item.layers, {**fixed, **chosen})
            loss = sum(self._losses.widths[root][width] for root, width in chosen.items())
            yield Choice(chosen, is_removed=False), Option(cost=cost, loss=loss)
        if item.block is not None:
            full = {root: self._full[root] for root in item.groups}
            yield Choice(full, is_removed=True), Option(cost=0.0, loss=self._losses.blocks[item.block])

    def _sum(self, layers: Sequence[str], widths: Mapping[str, int]) -> float:
        return sum(self._layer_us(name, widths) for name in layers)

    def _layer_us(self, name: str, widths: Mapping[str, int]) -> float:
        key = (self._shapes[name], *self._layers[name].size(widths, self._full))
        if key not in self._cache:
            self._cache[key] = self._times.layer_us(*key)
        return self._cache[key]


def _is_in(layer: str, blocks: frozenset[str]) -> bool:
    return any(layer.startswith(f"{block}.") for block in blocks)


def _structure(
    layers: Mapping[str, Site], grid: Mapping[str, tuple[int, ...]], blocks: Sequence[str]
) -> tuple[tuple[str, ...], tuple[Item, ...]]:
    """Groups that are fixed first, and the items that then no longer touch each other."""
    blocks_of = {
        root: {block for block in blocks for name in _touching(layers, root) if name.startswith(f"{block}.")}
        for root in grid
    }
    # A group that reaches beyond a block is a stream; so is one that two blocks share.
    fixed = {
        root
        for root in grid
        if blocks_of[root]
        and any(not name.startswith(f"{block}.") for block in blocks_of[root] for name in _touching(layers, root))
    }
    fixed |= {root for root in grid if _writers(layers, root) > 1}
    while True:
        parts = _parts(layers, [root for root in grid if root not in fixed])
        heavy = [part for part in parts if math.prod(len(grid[root]) for root in part) > MOST_OPTIONS]
        if not heavy:
            break
        fixed.add(max(heavy[0], key=lambda root: (len(_touching(layers, root)), root)))
    items = []
    for part in parts:
        touched = {name for root in part for name in _touching(layers, root)}
        block = next((each for each in blocks if any(name.startswith(f"{each}.") for name in touched)), None)
        if block is not None:
            touched |= {name for name in layers if name.startswith(f"{block}.")}
        items.append(Item(groups=tuple(part), layers=tuple(n for n in layers if n in touched), block=block))
    return tuple(root for root in grid if root in fixed), tuple(items)


def _parts(layers: Mapping[str, Site], roots: Sequence[str]) -> list[list[str]]:
    """Groups that layers tie together."""
    parts: list[set[str]] = [{root} for root in roots]
    for site in layers.values():
        tied = [part for part in parts if part & site.roots]
        if len(tied) > 1:
            parts = [part for part in parts if part not in tied] + [set().union(*tied)]
    return [[root for root in roots if root in part] for part in parts]


def _touching(layers: Mapping[str, Site], root: str) -> list[str]:
    return [name for name, site in layers.items() if root in site.roots]


def _writers(layers: Mapping[str, Site], root: str) -> int:
    return sum(root in dict(site.writers) and not site.is_depthwise for site in layers.values())
