"""The multiple-choice knapsack: one option of each item, the least loss within a budget of cost.

Solved by dynamic programming over Pareto fronts (Nemhauser and Ullmann 1969; Kellerer, Pferschy and Pisinger 2004,
chapter 11): item by item, of all ways so far those are kept that no other one beats in both cost and loss. That is
exact, and costs need not be rounded to a grid as in HALP. A front longer than `MOST_POINTS` is thinned to the best way
of each interval of cost; what comes out is within the budget all the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_POINTS = 4000


@dataclass(frozen=True, kw_only=True)
class Option:
    cost: float
    loss: float


def solve(items: Sequence[Sequence[Option]], budget: float, *, most_points: int = MOST_POINTS) -> list[int] | None:
    """The index of each item's option, or None where even the cheapest ones cost more than `budget`."""
    cheapest = [min(option.cost for option in options) for options in items]
    left = np.cumsum([0.0, *reversed(cheapest)])[::-1]  # what the items from here on cost at least
    # A rounding of the sums must not lose the only way that just fits.
    budget += 1e-9 * abs(budget)
    if left[0] > budget:
        return None
    costs, losses = np.zeros(1), np.zeros(1)
    steps: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for index, options in enumerate(items):
        of_cost = np.array([option.cost for option in options])
        of_loss = np.array([option.loss for option in options])
        all_costs = (costs[:, None] + of_cost).ravel()
        all_losses = (losses[:, None] + of_loss).ravel()
        fits = np.flatnonzero(all_costs + left[index + 1] <= budget)
        kept = fits[_front(all_costs[fits], all_losses[fits])]
        if len(kept) > most_points:
            kept = kept[_thinned(all_costs[kept], most_points)]
        steps.append((kept // len(options), kept % len(options)))
        costs, losses = all_costs[kept], all_losses[kept]
    return _traced(steps, int(np.argmin(losses)))


def _front(costs: NDArray[np.float64], losses: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices of the points that none beats, by rising cost and falling loss."""
    order = np.lexsort((losses, costs))
    lowest = np.minimum.accumulate(losses[order])
    is_better = np.r_[True, losses[order][1:] < lowest[:-1]]
    return order[is_better]


def _thinned(costs: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """The last point of each of `count` intervals of cost, which loses least there, and the cheapest of all."""
    interval = np.minimum((costs - costs[0]) / max(float(costs[-1] - costs[0]), 1e-30) * count, count - 1).astype(int)
    last = np.r_[interval[1:] != interval[:-1], True]
    last[0] = True
    return np.flatnonzero(last)


def _traced(steps: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]], position: int) -> list[int]:
    picks = []
    for parents, options in reversed(steps):
        picks.append(int(options[position]))
        position = int(parents[position])
    return picks[::-1]
