"""Choose channels and residual blocks to remove so that a network reaches a time with the least loss of importance.

As in HALP (Shen et al. 2022, https://arxiv.org/abs/2110.10811) the widths of all layers form one knapsack: importance
is the value, measured latency the weight. Two things improve on HALP. A layer's time depends on both its widths; HALP
uses the current width of the previous layer. Here the widths of residual streams, on which everything else
depends, are fixed first; the rest then splits into independent blocks, each with one exact time for
each choice of the widths inside it, or none if the whole block is removed. This multiple-choice knapsack is
solved exactly (`prune.knapsack`). All combinations of the streams' widths are tried if there are not too many: a lower
bound on the loss of each rules out those that cannot be better than the best so far. Otherwise
the search descends one width at a time, from the full network and from the fastest, until no single change helps.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.errors import CompressionError
from pipeline.latency.subnetwork import Site, Subnetwork
from pipeline.latency.table import LatencyTable, Times
from pipeline.prune.knapsack import Front, Option, Relaxation, solve

MAX_OPTIONS = 512
"""Per item; an item with more options gives one of its groups to those that are fixed first."""
MAX_TRIED = 8192
"""Largest number of combinations of the fixed groups that are all tried; four streams of eight widths have 4096."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Importance lost, in one unit; see `pipeline.prune.importance`."""

    widths: Mapping[str, Mapping[int, float]]
    """By group and the width it keeps."""
    blocks: Mapping[str, float]
    """By residual block that may be removed."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """Groups that are chosen together, and the layers whose times depend on them."""

    groups: tuple[str, ...]
    layers: tuple[str, ...]
    streams: tuple[str, ...]
    """Groups fixed first that those times also depend on."""
    block: str | None
    """Block that may be removed, with its layers."""


@dataclass(frozen=True)
class Choice:
    """Description of one option of an item."""

    widths: Mapping[str, int]
    is_removed: bool


Score = tuple[float, float]
"""Lower is better: importance lost, then microseconds."""
WORST: Score = (math.inf, math.inf)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """Objective of the search over the widths of the fixed groups."""

    bound: Callable[[Mapping[str, int]], Score]
    """A quick lower bound of the score."""
    score: Callable[[Mapping[str, int]], Score]

    def improve(self, widths: Mapping[str, int], reached: Score) -> Score | None:
        """Return the score of `widths` if it is lower than `reached`."""
        if self.bound(widths) >= reached:
            return None
        found = self.score(widths)
        return found if found < reached else None


@dataclass(frozen=True, kw_only=True)
class Remainder:
    """The knapsack that remains once the widths of the fixed groups are chosen."""

    fronts: Sequence[Front]
    """For each item, its choices by time and importance."""
    relaxation: Relaxation
    spent_us: float
    """Time that belongs to no item."""
    loss: float
    """Loss of the fixed groups."""

    @property
    def least_us(self) -> float:
        """Return the time with the fastest choice for every item."""
        return self.spent_us + float(self.relaxation.costs[0])

    def least_loss(self, budget_us: float) -> float:
        """Return a lower bound of the loss within the time; infinite if the time cannot be reached."""
        return self.loss + self.relaxation.least_loss(budget_us - self.spent_us)


class Clock:
    """Predicted time of subnetworks by a table, and the best subnetwork for a time."""

    def __init__(self, table: LatencyTable, precision: str, layers: Mapping[str, Site], losses: Losses) -> None:
        self._times: Times = table.precisions[precision]
        self._full, self._grid, self._shapes = table.full, table.grid, table.layers
        self._layers, self._losses = layers, losses
        self._fixed, self._items = _structure(layers, table.grid, tuple(losses.blocks))
        inside = {name for item in self._items for name in item.layers}
        self._outside = tuple(name for name in layers if name not in inside)
        self._known_us: dict[tuple[str, int, int], float] = {}
        self._fronts: dict[tuple[int, ...], Front] = {}
        self._remainders: dict[tuple[int, ...], Remainder] = {}

    def latency_us(self, subnetwork: Subnetwork) -> float:
        """Return the CPU time in microseconds that the table predicts."""
        left = [name for name in self._layers if not _is_in(name, subnetwork.removed)]
        return self._times.rest_us + self._sum(left, subnetwork.widths)

    def loss(self, subnetwork: Subnetwork) -> float:
        """Return the importance lost; groups inside a removed block count only with the block."""
        gone = {root for item in self._items if item.block in subnetwork.removed for root in item.groups}
        widths = ((root, width) for root, width in subnetwork.widths.items() if root not in gone)
        return sum(self._losses.widths[root][width] for root, width in widths) + sum(
            self._losses.blocks[block] for block in subnetwork.removed
        )

    @cached_property
    def fastest(self) -> Subnetwork:
        """Return the fastest subnetwork found, at any loss."""

        def score(fixed: Mapping[str, int]) -> Score:
            return 0.0, self._remainder(fixed).least_us

        fixed = self._search(Goal(bound=score, score=score), [self._full])
        return self._subnetwork(fixed, [int(front.indices[0]) for front in self._remainder(fixed).fronts])

    def fit(self, budget_us: float) -> Subnetwork:
        """Return the subnetwork with the least loss within `budget_us`; raise `CompressionError` if none was found."""
        least = self.latency_us(self.fastest)
        if least > budget_us:
            full = self.latency_us(Subnetwork(widths=self._full))
            raise CompressionError(
                f"a latency of {budget_us / 1e3:.4g} ms cannot be reached: the fastest network of this architecture "
                f"takes {least / 1e3:.4g} ms by the table (unpruned: {full / 1e3:.4g} ms). Request at least that "
                f"(a speedup of at most {full / least:.3g}), or train a smaller network."
            )

        def bound(fixed: Mapping[str, int]) -> Score:
            left = self._remainder(fixed)
            loss = left.least_loss(budget_us)
            return loss, left.least_us if math.isinf(loss) else 0.0

        def score(fixed: Mapping[str, int]) -> Score:
            found = self._solve(fixed, budget_us)
            return (math.inf, self._remainder(fixed).least_us) if found is None else (self.loss(found), 0.0)

        best = self._search(Goal(bound=bound, score=score), [self._full, self.fastest.widths])
        return self._solve(best, budget_us) or self.fastest

    def _search(self, goal: Goal, starts: Sequence[Mapping[str, int]]) -> dict[str, int]:
        """Return the best widths of the fixed groups: of all if few, else of descents from each of `starts`."""
        if math.prod(len(self._grid[root]) for root in self._fixed) <= MAX_TRIED:
            # The most promising first, so that few have to be scored.
            tried: Iterable[dict[str, int]] = sorted(self._combinations(self._fixed), key=goal.bound)
        else:
            tried = (self._descend(start, goal) for start in starts)
        best, reached = {root: self._full[root] for root in self._fixed}, WORST
        for widths in tried:
            found = goal.improve(widths, reached)
            if found is not None:
                best, reached = widths, found
        return best

    def _descend(self, start: Mapping[str, int], goal: Goal) -> dict[str, int]:
        widths = {root: start[root] for root in self._fixed}
        reached = goal.score(widths)
        improve = True
        while improve:
            improve = False
            for root in self._fixed:
                for width in self._grid[root]:
                    moved = {**widths, root: width}
                    found = goal.improve(moved, reached) if moved != widths else None
                    if found is not None:
                        widths, reached, improve = moved, found, True
        return widths

    def _combinations(self, groups: Sequence[str]) -> Iterator[dict[str, int]]:
        for widths in itertools.product(*(self._grid[root] for root in groups)):
            yield dict(zip(groups, widths, strict=True))

    def _solve(self, fixed: Mapping[str, int], budget_us: float) -> Subnetwork | None:
        left = self._remainder(fixed)
        picks = solve(left.fronts, budget_us - left.spent_us)
        return None if picks is None else self._subnetwork(fixed, picks)

    def _subnetwork(self, fixed: Mapping[str, int], picks: Sequence[int]) -> Subnetwork:
        widths = dict(fixed)
        removed = set()
        for item, choices, pick in zip(self._items, self._choices, picks, strict=True):
            widths |= choices[pick].widths
            if choices[pick].is_removed:
                removed.add(item.block)
        return Subnetwork(
            widths={root: widths[root] for root in self._grid}, removed=frozenset(block for block in removed if block)
        )

    def _remainder(self, fixed: Mapping[str, int]) -> Remainder:
        """Return the remaining knapsack, computed once; it does not depend on the budget."""
        key = tuple(fixed[root] for root in self._fixed)
        if key not in self._remainders:
            fronts = [self._front(index, fixed) for index in range(len(self._items))]
            self._remainders[key] = Remainder(
                fronts=fronts,
                relaxation=Relaxation.of(fronts),
                spent_us=self._times.rest_us + self._sum(self._outside, fixed),
                loss=sum(self._losses.widths[root][width] for root, width in fixed.items()),
            )
        return self._remainders[key]

    def _front(self, index: int, fixed: Mapping[str, int]) -> Front:
        """Return one item's front, computed once per widths of its streams."""
        item = self._items[index]
        key = (index, *(fixed[root] for root in item.streams))
        if key not in self._fronts:
            self._fronts[key] = Front.of([self._option(item, choice, fixed) for choice in self._choices[index]])
        return self._fronts[key]

    @cached_property
    def _choices(self) -> list[list[Choice]]:
        """Return the choices of each item."""
        found = []
        for item in self._items:
            choices = [Choice(widths, is_removed=False) for widths in self._combinations(item.groups)]
            if item.block is not None:
                full = {root: self._full[root] for root in item.groups}
                choices.append(Choice(full, is_removed=True))
            found.append(choices)
        return found

    def _option(self, item: Item, choice: Choice, fixed: Mapping[str, int]) -> Option:
        if choice.is_removed and item.block is not None:
            return Option(cost=0.0, loss=self._losses.blocks[item.block])
        loss = sum(self._losses.widths[root][width] for root, width in choice.widths.items())
        return Option(cost=self._sum(item.layers, {**fixed, **choice.widths}), loss=loss)

    def _sum(self, layers: Sequence[str], widths: Mapping[str, int]) -> float:
        return sum(self._layer_us(name, widths) for name in layers)

    def _layer_us(self, name: str, widths: Mapping[str, int]) -> float:
        key = (self._shapes[name], *self._layers[name].size(widths, self._full))
        if key not in self._known_us:
            self._known_us[key] = self._times.layer_us(*key)
        return self._known_us[key]


def _is_in(layer: str, blocks: frozenset[str]) -> bool:
    return any(layer.startswith(f"{block}.") for block in blocks)


def _structure(
    layers: Mapping[str, Site], grid: Mapping[str, tuple[int, ...]], blocks: Sequence[str]
) -> tuple[tuple[str, ...], tuple[Item, ...]]:
    """Return the groups that are fixed first, and the items that are independent after that."""
    blocks_of = {
        root: {block for block in blocks for name in _touching(layers, root) if name.startswith(f"{block}.")}
        for root in grid
    }
    # A group that reaches beyond a block is a stream, and so is one shared by two blocks.
    fixed = {
        root
        for root in grid
        if blocks_of[root]
        and any(not name.startswith(f"{block}.") for block in blocks_of[root] for name in _touching(layers, root))
    }
    fixed |= {root for root in grid if _writers(layers, root) > 1}
    while True:
        parts = _parts(layers, [root for root in grid if root not in fixed])
        heavy = [part for part in parts if math.prod(len(grid[root]) for root in part) > MAX_OPTIONS]
        if not heavy:
            break
        fixed.add(max(heavy[0], key=lambda root: (len(_touching(layers, root)), root)))
    items = []
    for part in parts:
        touched = {name for root in part for name in _touching(layers, root)}
        block = next((each for each in blocks if any(name.startswith(f"{each}.") for name in touched)), None)
        if block is not None:
            touched |= {name for name in layers if name.startswith(f"{block}.")}
        streams = {root for name in touched for root in layers[name].roots} & fixed
        items.append(
            Item(
                groups=tuple(part),
                layers=tuple(name for name in layers if name in touched),
                streams=tuple(sorted(streams)),
                block=block,
            )
        )
    return tuple(root for root in grid if root in fixed), tuple(items)


def _parts(layers: Mapping[str, Site], roots: Sequence[str]) -> list[list[str]]:
    """Return the groups that are connected by layers."""
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
