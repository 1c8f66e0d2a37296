"""The knapsack against all ways there are."""

import itertools
import random

import numpy as np
import pytest

from pipeline.prune import knapsack
from pipeline.prune.knapsack import Front, Option, Relaxation


def drawn(rng: random.Random, items: int, options: int) -> list[list[Option]]:
    return [
        [Option(cost=rng.uniform(0, 10), loss=rng.choice((0.0, rng.uniform(0, 5)))) for _ in range(options)]
        for _ in range(items)
    ]


def solve(items: list[list[Option]], budget: float, *, most_points: int = knapsack.MAX_POINTS) -> list[int] | None:
    return knapsack.solve([Front.of(options) for options in items], budget, most_points=most_points)


def relaxed(items: list[list[Option]]) -> Relaxation:
    return Relaxation.of([Front.of(options) for options in items])


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


@pytest.mark.parametrize("points", [1, 2, 3])
def test_a_front_thinned_to_next_to_nothing_still_ends_within_the_budget(points: int) -> None:
    for seed in range(20):
        items = drawn(random.Random(seed), items=12, options=6)
        budget = 0.4 * sum(max(option.cost for option in options) for options in items)
        picks = solve(items, budget, most_points=points)
        assert picks is not None
        assert totals(items, picks)[0] <= budget * (1 + 1e-9)


def test_a_front_is_what_no_other_option_beats() -> None:
    for seed in range(20):
        (options,) = drawn(random.Random(seed), items=1, options=30)
        front = Front.of(options)
        unbeaten = [
            index
            for index, option in enumerate(options)
            if not any(
                other.cost <= option.cost and other.loss <= option.loss and other != option for other in options
            )
        ]
        assert sorted(front.indices) == unbeaten
        assert [options[index].cost for index in front.indices] == list(front.costs)
        assert [options[index].loss for index in front.indices] == list(front.losses)
        assert (np.diff(front.costs) > 0).all()
        assert (np.diff(front.losses) < 0).all()


def test_of_equal_options_the_first_is_taken() -> None:
    same = Option(cost=1.0, loss=1.0)
    assert list(Front.of([Option(cost=2.0, loss=1.0), same, same]).indices) == [1]
    assert solve([[same, same], [same, same, same]], 2.0) == [0, 0]


@pytest.mark.parametrize("seed", range(40))
def test_the_relaxation_bounds_the_loss_from_both_sides(seed: int) -> None:
    rng = random.Random(seed)
    items = drawn(rng, items=rng.randint(1, 5), options=rng.randint(1, 5))
    curve = relaxed(items)
    for share in (0.0, 0.1, 0.3, 0.5, 0.8, 1.0):
        budget = share * sum(max(option.cost for option in options) for options in items)
        exact = least_loss(items, budget)
        if exact is None:
            assert curve.least_loss(budget) == curve.at_most(budget) == np.inf
        else:
            assert curve.least_loss(budget) <= exact + 1e-9
            assert exact <= curve.at_most(budget) + 1e-9


def test_each_corner_of_the_relaxation_is_a_way() -> None:
    items = drawn(random.Random(4), items=4, options=5)
    curve = relaxed(items)
    assert len(curve.costs) > 4
    for cost, loss in zip(curve.costs, curve.losses, strict=True):
        assert least_loss(items, cost * (1 + 1e-9)) == pytest.approx(loss)
    gains = -np.diff(curve.losses) / np.diff(curve.costs)
    assert (np.diff(gains) <= 1e-9).all()


def test_the_bounds_rule_out_most_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many items as a ResNet-50 has blocks, each with as many options."""
    items = drawn(random.Random(5), items=16, options=65)
    budget = 0.3 * sum(max(option.cost for option in options) for options in items)
    fronts = [Front.of(options) for options in items]
    tested: list[int] = []
    at_least = Relaxation.at_least

    def counted(curve: Relaxation, budgets: knapsack.Floats) -> knapsack.Floats:
        tested.append(len(budgets))
        return at_least(curve, budgets)

    monkeypatch.setattr(Relaxation, "at_least", counted)
    picks = knapsack.solve(fronts, budget)
    assert picks is not None
    assert len(tested) == len(items)
    assert max(tested) < knapsack.MAX_POINTS  # so that nothing is thinned, and the answer is exact


def test_nothing_to_choose_costs_nothing() -> None:
    assert solve([], 0.0) == []
    assert solve([], -1.0) is None
