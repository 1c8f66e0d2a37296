"""Multiple-choice knapsack: one option of each item, with the least loss within a cost budget.

Only the front of each item matters: the options that no other one beats in both cost and loss. The linear relaxation
follows quickly from the convex hulls of the fronts (Sinha and Zoltners 1979). It bounds the loss from below, and
its corners are solutions, which bound it from above. The exact answer is found by dynamic programming over
Pareto fronts (Nemhauser and Ullmann 1969; Kellerer, Pferschy and Pisinger 2004, chapter 11): item by item, partial
solutions are kept if no other one beats them and the bounds do not rule them out. Costs need not be rounded to a grid
as in HALP. A front longer than `MAX_POINTS` is thinned to the best partial solution of each interval of cost; the
result is still within the budget.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 4000

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Option:
    cost: float
    loss: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Front:
    """The options of one item that no other one beats, by rising cost and falling loss."""

    costs: Floats
    losses: Floats
    indices: NDArray[np.intp]
    """Of the item's options."""

    @classmethod
    def of(cls, options: Sequence[Option]) -> "Front":
        costs = np.array([option.cost for option in options])
        losses = np.array([option.loss for option in options])
        kept = _pareto_front(costs, losses)
        return cls(costs=costs[kept], losses=losses[kept], indices=kept)

    @cached_property
    def hull(self) -> tuple[Floats, Floats]:
        """Return cost added and loss saved between corners of the lower convex hull, the best ratio first."""
        corners: list[int] = []
        for point in range(len(self.costs)):
            while len(corners) > 1 and self._is_above(corners[-2], corners[-1], point):
                corners.pop()
            corners.append(point)
        return np.diff(self.costs[corners]), -np.diff(self.losses[corners])

    def _is_above(self, left: int, middle: int, right: int) -> bool:
        """Whether the middle point is on or above the line between the others."""
        costs, losses = self.costs, self.losses
        return bool(
            (losses[left] - losses[middle]) * (costs[right] - costs[middle])
            <= (losses[middle] - losses[right]) * (costs[middle] - costs[left])
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Relaxation:
    """The least loss by cost if options may be mixed, as a curve; at its corners no options are mixed.

    The curve adds the steps of all hulls, the best ratio first, so it is convex.
    """

    costs: Floats
    losses: Floats

    @classmethod
    def of(cls, items: Sequence[Front]) -> "Relaxation":
        added = np.concatenate([np.zeros(0), *(item.hull[0] for item in items)])
        saved = np.concatenate([np.zeros(0), *(item.hull[1] for item in items)])
        order = np.argsort(-saved / added, kind="stable")
        cheapest, most_lost = sum(item.costs[0] for item in items), sum(item.losses[0] for item in items)
        return cls(
            costs=np.cumsum(np.concatenate([[cheapest], added[order]])),
            losses=np.cumsum(np.concatenate([[most_lost], -saved[order]])),
        )

    def least_loss(self, budget: float) -> float:
        """Return a lower bound of the loss within `budget`; infinite if even the cheapest options cost more."""
        return float(self.at_least(np.array([_rounded_up(budget)]))[0])

    def at_least(self, budgets: Floats) -> Floats:
        """Return `least_loss` of each, bit-identical."""
        return np.interp(budgets, self.costs, self.losses, left=math.inf)

    def at_most(self, budget: float) -> float:
        """Return an upper bound of the least loss within `budget`; infinite if there is no solution."""
        within = int(np.searchsorted(self.costs, budget, side="right"))
        return float(self.losses[within - 1]) if within else math.inf


def solve(items: Sequence[Front], budget: float, *, most_points: int = MAX_POINTS) -> list[int] | None:
    """Return the index of each item's option, or None if even the cheapest ones cost more than `budget`."""
    budget = _rounded_up(budget)
    rests = [Relaxation.of(items[start:]) for start in range(len(items) + 1)]
    most = rests[0].at_most(budget)
    if math.isinf(most):
        return None
    # Rounding of the sums must not exclude the solution with exactly this loss.
    most += 1e-9 * float(rests[0].losses[0])
    costs, losses = np.zeros(1), np.zeros(1)
    steps: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for item, rest in zip(items, rests[1:], strict=True):
        all_costs = (costs[:, None] + item.costs).ravel()
        all_losses = (losses[:, None] + item.losses).ravel()
        hoped = np.flatnonzero(all_losses + rest.at_least(budget - all_costs) <= most)
        kept = hoped[_pareto_front(all_costs[hoped], all_losses[hoped])]
        if len(kept) > most_points:
            kept = kept[_thin(all_costs[kept], most_points)]
            # The solution of `most` may be gone: any solution within the budget will do.
            most = (1 + 1e-9) * float(rests[0].losses[0])
        steps.append((kept // len(item.costs), item.indices[kept % len(item.costs)]))
        costs, losses = all_costs[kept], all_losses[kept]
    return _trace_back(steps, int(np.argmin(losses)))


def _rounded_up(budget: float) -> float:
    """Return the budget with a margin, so that rounding does not exclude a solution that just fits."""
    return budget + 1e-9 * abs(budget)


def _pareto_front(costs: Floats, losses: Floats) -> NDArray[np.intp]:
    """Return the indices of the points that no other one beats, by rising cost and falling loss."""
    order = np.lexsort((losses, costs))
    lowest = np.minimum.accumulate(losses[order])
    is_better = np.r_[True, losses[order][1:] < lowest[:-1]]
    return order[is_better]


def _thin(costs: Floats, count: int) -> NDArray[np.intp]:
    """Return the last point of each of `count` intervals of cost, which loses least there, and the cheapest of all."""
    interval = np.minimum((costs - costs[0]) / max(float(costs[-1] - costs[0]), 1e-30) * count, count - 1).astype(int)
    last = np.r_[interval[1:] != interval[:-1], True]
    last[0] = True
    return np.flatnonzero(last)


def _trace_back(steps: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]], position: int) -> list[int]:
    picks = []
    for parents, options in reversed(steps):
        picks.append(int(options[position]))
        position = int(parents[position])
    return picks[::-1]
