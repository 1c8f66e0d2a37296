"""Series made by a seeded generator: what is called unsteady, how often by mistake, and what is missed."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from targets.device.bench.statistics import (
    MIN_RUNS,
    WINDOWS,
    chi_square_tail,
    find_instability,
    kruskal_wallis,
    standard_error,
    theil_sen,
)

Array = NDArray[np.float64]
Random = np.random.Generator


def windows(series: Array) -> list[Array]:
    return np.array_split(series, WINDOWS)


def share_unsteady(make: Callable[[Random], Array], times: int) -> float:
    random = np.random.default_rng(20)
    return sum(bool(find_instability(windows(make(random)))) for _ in range(times)) / times


@pytest.mark.parametrize(("runs", "noise"), [(MIN_RUNS, 0.01), (MIN_RUNS, 0.03), (2000, 0.01), (2000, 0.05)])
def test_noise_alone_is_called_unsteady_at_most_once_in_fifty(runs: int, noise: float) -> None:
    assert share_unsteady(lambda random: 5 * np.exp(noise * random.standard_normal(runs)), 400) <= 0.02


def share_accepted(drift: float, runs: int, noise: float) -> float:
    """Of searches that look at the last ten windows after each of sixty, as a measurement does; drift of ten."""
    return sum(is_accepted(drift, runs, noise, np.random.default_rng(seed)) for seed in range(40)) / 40


def is_accepted(drift: float, runs: int, noise: float, random: Random) -> bool:
    seen: list[Array] = []
    for window in range(60):
        level = 1 + drift * (window + np.arange(runs) / runs) / WINDOWS
        seen.append(level * np.exp(noise * random.standard_normal(runs)))
        if len(seen) >= WINDOWS and not find_instability(seen[-WINDOWS:]):
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "noise"), [(30, 0.01), (30, 0.04), (100, 0.05), (500, 0.15)])
def test_a_search_finds_steady_series_and_no_drifting_one_by_luck(runs: int, noise: float) -> None:
    assert share_accepted(0.0, runs, noise) == 1
    assert share_accepted(0.07, runs, noise) <= 0.05
    assert share_accepted(-0.07 / 4, runs, noise) == 1


@pytest.mark.parametrize(("runs", "noise"), [(30, 0.1), (100, 0.2)])
def test_what_is_too_noisy_is_not_vouched_for(runs: int, noise: float) -> None:
    assert share_accepted(0.0, runs, noise) <= 0.05
    random = np.random.default_rng(0)
    reasons = find_instability([np.exp(noise * random.standard_normal(runs)) for _ in range(WINDOWS)])
    assert reasons[0].startswith("too noisy: the median of a window is known to 2.")


@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_the_standard_error_is_that_of_many_medians(noise: float) -> None:
    random = np.random.default_rng(5)
    groups = 7 * (1 + noise * random.standard_normal((3000, 101)))
    expected = float(np.std(np.median(groups, axis=1))) / 7
    assert float(np.mean([standard_error(group) for group in groups])) == pytest.approx(expected, rel=0.1)


def test_outliers_alone_are_not_unsteady() -> None:
    def make(random: Random) -> Array:
        series = 5 * (1 + 0.02 * random.standard_normal(1000))
        return np.where(random.random(1000) < 0.03, series * random.uniform(3, 50, 1000), series)

    assert share_unsteady(make, 400) <= 0.01


def test_noise_with_a_memory_is_not_unsteady_while_its_level_stays() -> None:
    def make(random: Random) -> Array:
        series = np.zeros(2000)
        for index, step in enumerate(random.standard_normal(1999) * 0.02 * np.sqrt(1 - 0.9**2)):
            series[index + 1] = 0.9 * series[index] + step
        return 5 * (1 + series)

    assert share_unsteady(make, 60) <= 0.02


def drifting(change: float) -> Callable[[Random], Array]:
    return lambda random: 5 * (1 + change * np.linspace(0, 1, 1000)) * (1 + 0.02 * random.standard_normal(1000))


def stepping(change: float) -> Callable[[Random], Array]:
    def make(random: Random) -> Array:
        after = np.arange(1000) > random.integers(100, 900)
        return 5 * (1 + change * after) * (1 + 0.02 * random.standard_normal(1000))

    return make


def waving(periods: float) -> Callable[[Random], Array]:
    def make(random: Random) -> Array:
        wave = np.sin(2 * np.pi * (periods * np.linspace(0, 1, 1000) + random.random()))
        return 5 * (1 + 0.05 * wave) * (1 + 0.02 * random.standard_normal(1000))

    return make


@pytest.mark.parametrize(
    ("make", "least", "most"),
    [
        pytest.param(drifting(0.01), 0.0, 0.02, id="a drift of 1 % is let pass"),
        pytest.param(drifting(0.04), 0.98, 1.0, id="one of 4 % is found"),
        pytest.param(drifting(-0.04), 0.98, 1.0, id="one downward, as of a warm-up, too"),
        pytest.param(stepping(0.07), 0.98, 1.0, id="a step of 7 % is found"),
        pytest.param(waving(1), 0.98, 1.0, id="a slow wave of 10 % is found"),
        pytest.param(waving(3), 0.98, 1.0, id="a faster one"),
        pytest.param(waving(50), 0.0, 0.02, id="one within each window is part of the distribution"),
    ],
)
def test_changes_that_matter_are_found_and_others_are_not(
    make: Callable[[Random], Array], least: float, most: float
) -> None:
    assert least <= share_unsteady(make, 200) <= most


def test_the_reason_says_by_how_much() -> None:
    (reason,) = find_instability(windows(np.linspace(100, 104, 1000)))
    assert reason == "still drifting: +3.5% from the first window to the last (at most 2%)"
    step = np.concatenate([np.linspace(1.0, 1.01, 500), np.linspace(1.1, 1.11, 500)])
    assert any(
        "the level changes: medians of the 10 windows are up to 10.8% apart (at most 5%)" in reason
        for reason in find_instability(windows(step))
    )


def test_a_wide_spread_that_may_be_chance_is_no_change_of_level() -> None:
    """Ten windows of three runs, 30 % noise: medians are far apart, and nothing can be told."""
    random = np.random.default_rng(1)
    groups = [np.exp(0.3 * random.standard_normal(3)) for _ in range(10)]
    medians = [float(np.median(group)) for group in groups]
    assert max(medians) / min(medians) > 1.3
    assert not [reason for reason in find_instability(groups) if "level" in reason]


@pytest.mark.parametrize("seed", range(5))
def test_the_tests_agree_with_scipy(seed: int) -> None:
    random = np.random.default_rng(seed)
    groups = [random.integers(0, 40, random.integers(5, 30)) + shift for shift in random.integers(0, 8, 6)]
    ours = kruskal_wallis([group.astype(np.float64) for group in groups])
    assert ours == pytest.approx(float(stats.kruskal(*groups).pvalue), rel=0.2)
    values = random.standard_normal(10) + 0.2 * np.arange(10)
    assert theil_sen(values) == pytest.approx(float(stats.theilslopes(values)[0]))


@pytest.mark.parametrize("freedom", [2, 5, 9])
def test_the_tail_of_chi_square_is_near_enough(freedom: int) -> None:
    for chance in (0.5, 0.05, 0.01, 0.001):
        value = float(stats.chi2.isf(chance, freedom))
        assert chi_square_tail(value, freedom) == pytest.approx(chance, rel=0.2)


def test_equal_values_and_single_windows_are_steady() -> None:
    assert find_instability([np.ones(30)] * 10) == []
    assert find_instability([np.array([1.0, 1.0, 1.0, 9.0])]) == []
    assert kruskal_wallis([np.ones(3), np.ones(3)]) == 1.0


def test_so_many_runs_bound_the_99th_percentile() -> None:
    assert 0.99**MIN_RUNS <= 0.05 < 0.99 ** (MIN_RUNS - 1)
