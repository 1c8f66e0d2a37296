"""The knapsack against all ways there are."""

import itertools
import random

import pytest

from pipeline.knapsack import Option, solve


def drawn(rng: random.Random, items: int, options: int) -> list[list[Option]]:
    return [
        [Option(cost=rng.uniform(0, 10), loss=rng.choice((0.0, rng.uniform(0, 5)))) for _ in range(options)]
        for _ in range(items)
    ]


def totals(items: list[list[Option]], picks: tuple[int, ...] | list[int]) -> tuple[float, float]:
    chosen = [options[pick] for options, pick in zip(items, picks, strict=True)]
    return sum(option.cost for option in chosen), sum(option.loss for option in chosen)


def least_loss(items: list[list[Option]], budget: float) -> float | None:
    ways = itertools.product(*(range(len(options)) for options in items))
    losses = [loss for cost, loss in (totals(items, way) for way in ways) if cost <= budget]
    return min(losses, default=None)


@pytest.mark.parametrize("seed", range(40))
def test_no_way_within_the_budget_loses_less(seed: int) -> None:
    rng = random.Random(seed)
    items = drawn(rng, items=rng.randint(1, 5), options=rng.randint(1, 5))
    for share in (0.1, 0.4, 0.6, 1.0):
        budget = share * sum(max(option.cost for option in options) for options in items)
        picks = solve(items, budget)
        expected = least_loss(items, budget)
        if expected is None:
            assert picks is None
        else:
            assert picks is not None
            cost, loss = totals(items, picks)
            assert cost <= budget * (1 + 1e-9)
            assert loss == pytest.approx(expected)


def test_exactly_the_cheapest_way_fits() -> None:
    items = drawn(random.Random(1), items=30, options=6)
    cheapest = sum(min(option.cost for option in options) for options in items)
    picks = solve(items, cheapest)
    assert picks is not None
    assert totals(items, picks)[0] == pytest.approx(cheapest)
    assert solve(items, 0.99 * cheapest) is None


def test_a_thinned_front_stays_within_the_budget_and_near_the_best() -> None:
    items = drawn(random.Random(2), items=25, options=8)
    budget = 0.4 * sum(max(option.cost for option in options) for options in items)
    exact, thinned = solve(items, budget, most_points=10**6), solve(items, budget, most_points=50)
    assert exact is not None
    assert thinned is not None
    assert totals(items, thinned)[0] <= budget
    assert totals(items, exact)[1] <= totals(items, thinned)[1] <= 1.25 * totals(items, exact)[1] + 0.5


def test_nothing_to_choose_costs_nothing() -> None:
    assert solve([], 0.0) == []
    assert solve([], -1.0) is None
