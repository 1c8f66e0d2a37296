"""Tango's bounds of the drop, against published values, brute force, exact enumeration and simulation."""

import math
from functools import cache

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom, norm

from targets.device.gate.tango import drop_bounds, drop_interval, images_needed, score

TABLES = [(9, 3, 32), (1, 0, 44), (0, 0, 300), (0, 7, 50), (7, 0, 50), (25, 25, 50), (40, 2, 50), (5, 5, 846)]


@cache
def bounds(lost: int, won: int, images: int) -> tuple[float, float]:
    return drop_bounds(lost, won, images)


def log_likelihood(lost: int, won: int, images: int, q: float, drop: float) -> float:
    cells = ((lost, q + drop), (won, q), (images - lost - won, 1 - 2 * q - drop))
    return sum(count * math.log(max(p, 1e-300)) for count, p in cells if count)


def brute_score(lost: int, won: int, images: int, drop: float) -> float:
    """Rao's score test from its definition: restricted maximum found numerically, variance of lost - won under it."""
    low, high = max(0.0, -drop), (1 - drop) / 2
    best = minimize_scalar(
        lambda q: -log_likelihood(lost, won, images, q, drop), bounds=(low, high), options={"xatol": 1e-13}
    ).x
    candidates = (best, low, high)
    q = max(candidates, key=lambda value: log_likelihood(lost, won, images, value, drop))
    variance = images * ((q + drop) + q - drop**2)
    return float((lost - won - images * drop) / math.sqrt(variance))


def test_tango_1998_first_example_soft_contact_lenses() -> None:
    # 44 pairs, one discordant, margin 0.1: Z = 1.709, 90 % lower limit -0.096.
    assert score(0, 1, 44, -0.1) == pytest.approx(1.709, abs=5e-4)
    assert drop_bounds(0, 1, 44)[0] == pytest.approx(-0.096, abs=5e-4)


def test_tango_1998_second_example_sleeping_difficulties() -> None:
    # 32 pairs, 9 and 3 discordant: 95 % interval -0.027 to 0.390.
    assert drop_interval(9, 3, 32) == pytest.approx((-0.027, 0.390), abs=5e-4)


def test_other_implementations_agree() -> None:
    # R PropCIs: scoreci.mp(25, 28, 618, 0.90) estimates (28 - 25) / 618; scoreci.mp(7, 1, 21, 0.95).
    assert drop_bounds(28, 25, 618) == pytest.approx((-0.0148, 0.0247), abs=5e-5)
    assert drop_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(("lost", "won", "images"), TABLES)
@pytest.mark.parametrize("drop", [-0.4, -0.05, -0.01, 0.001, 0.01, 0.05, 0.3])
def test_score_equals_its_definition(lost: int, won: int, images: int, drop: float) -> None:
    assert score(lost, won, images, drop) == pytest.approx(brute_score(lost, won, images, drop), rel=1e-4, abs=1e-6)


def test_score_at_no_drop_is_mcnemars() -> None:
    assert score(9, 3, 32, 0.0) == pytest.approx(6 / math.sqrt(12))


@pytest.mark.parametrize(("lost", "won", "images"), TABLES)
def test_limits_are_where_the_score_reaches_the_quantile(lost: int, won: int, images: int) -> None:
    for limits, z in (
        (drop_bounds(lost, won, images), norm.ppf(0.95)),
        (drop_interval(lost, won, images), norm.ppf(0.975)),
    ):
        assert -1 < limits[0] < (lost - won) / images < limits[1] < 1
        assert brute_score(lost, won, images, limits[0]) == pytest.approx(z, rel=1e-3)
        assert brute_score(lost, won, images, limits[1]) == pytest.approx(-z, rel=1e-3)


def test_limits_of_every_small_table_are_in_order() -> None:
    for images in (1, 2, 7):
        for lost in range(images + 1):
            for won in range(images + 1 - lost):
                low, high = drop_interval(lost, won, images)
                lower, upper = drop_bounds(lost, won, images)
                assert -1 <= low <= lower <= (lost - won) / images <= upper <= high <= 1
                mirrored = drop_interval(won, lost, images)
                assert (low, high) == pytest.approx((-mirrored[1], -mirrored[0]), abs=1e-15)


def test_more_losses_mean_a_higher_bound() -> None:
    uppers = [drop_bounds(lost, 10, 1000)[1] for lost in range(60)]
    assert uppers == sorted(uppers)
    assert drop_bounds(1000, 0, 1000)[1] == 1


@pytest.mark.parametrize(("lost", "won", "images"), [(-1, 0, 5), (0, -1, 5), (3, 3, 5), (0, 0, 0)])
def test_impossible_counts_are_refused(lost: int, won: int, images: int) -> None:
    with pytest.raises(ValueError, match="lost"):
        drop_bounds(lost, won, images)


def chance_to_pass(images: int, loss_rate: float, win_rate: float, margin: float) -> float:
    """Exact probability that the upper bound is at most `margin`, over all tables of a true loss and win rate."""
    losses = np.arange(images + 1)
    loss_chances = binom.pmf(losses, images, loss_rate)
    total = 0.0
    for lost in losses[loss_chances > 1e-9].tolist():
        wins = np.arange(images - lost + 1)
        win_chances = binom.pmf(wins, images - lost, win_rate / (1 - loss_rate))
        likely = wins[win_chances > 1e-9].tolist()
        passing = [bounds(lost, won, images)[1] <= margin for won in likely]
        total += loss_chances[lost] * win_chances[likely] @ passing
    return float(total)


@pytest.mark.parametrize("images", [300, 846, 2000])
@pytest.mark.parametrize("discordance", [0.02, 0.04, 0.08])
def test_at_a_drop_equal_to_the_margin_at_most_5_percent_pass(images: int, discordance: float) -> None:
    rng = np.random.default_rng(images)
    runs = 20_000
    loss_rate, win_rate = (discordance + 0.01) / 2, (discordance - 0.01) / 2
    drawn = rng.multinomial(images, [loss_rate, win_rate, 1 - discordance], size=runs)
    passed = sum(bounds(lost, won, images)[1] <= 0.01 for lost, won, _ in drawn.tolist()) / runs
    noise = math.sqrt(0.05 * 0.95 / runs)
    assert 0.03 < passed <= 0.05 + 3 * noise


@pytest.mark.parametrize("images", [268, 299, 446, 602, 1083])
def test_the_worst_case_of_coarse_counts_is_known(images: int) -> None:
    """No wins at all: few, whole losses decide, so that the nominal 5 % are missed on either side."""
    assert chance_to_pass(images, 0.01, 0.0, 0.01) <= 0.068


def test_at_a_drop_equal_to_the_margin_few_fail() -> None:
    rng = np.random.default_rng(1)
    drawn = rng.multinomial(1000, [0.025, 0.015, 0.96], size=20_000)
    failed = sum(bounds(lost, won, 1000)[0] > 0.01 for lost, won, _ in drawn.tolist()) / 20_000
    assert 0.03 < failed < 0.055


@pytest.mark.parametrize(("loss_rate", "win_rate"), [(0.01, 0.01), (0.03, 0.01), (0.1, 0.02), (0.004, 0.002)])
def test_the_two_sided_interval_covers_the_truth_95_times_of_100(loss_rate: float, win_rate: float) -> None:
    rng = np.random.default_rng(2)
    covered = 0
    drawn = rng.multinomial(1000, [loss_rate, win_rate, 1 - loss_rate - win_rate], size=4000).tolist()
    limits = cache(drop_interval)
    for lost, won, _ in drawn:
        low, high = limits(lost, won, 1000)
        covered += low <= loss_rate - win_rate <= high
    assert 0.94 < covered / 4000 < 0.965


def test_images_needed_without_any_change() -> None:
    needed = images_needed(0, 0, 1, margin=0.01)
    assert needed == 268
    assert drop_bounds(0, 0, 268)[1] <= 0.01 < drop_bounds(0, 0, 267)[1]


@pytest.mark.parametrize("discordance", [0.02, 0.04])
def test_images_needed_give_an_even_chance(discordance: float) -> None:
    rate = discordance / 2
    needed = images_needed(rate, rate, 1, margin=0.01)
    assert needed is not None
    assert chance_to_pass(needed, rate, rate, 0.01) == pytest.approx(0.5, abs=0.02)
    # The textbook z^2 * discordance / margin^2 (542 and 1083) is a little short of it.
    textbook = math.ceil(norm.ppf(0.95) ** 2 * discordance / 0.01**2)
    assert 0.45 < chance_to_pass(textbook, rate, rate, 0.01) < 0.5


def test_images_needed_are_more_than_there_are_exactly_while_undecided() -> None:
    images, margin = 846, 0.01
    for lost in range(0, 30, 3):
        for won in range(0, 30, 3):
            needed = images_needed(lost, won, images, margin=margin)
            passes = drop_bounds(lost, won, images)[1] <= margin
            assert passes == (needed is not None and needed <= images), (lost, won)


def test_more_images_cannot_help_at_or_near_the_margin() -> None:
    assert images_needed(9, 1, 800, margin=0.01) is None
    assert images_needed(20, 1, 800, margin=0.01) is None
    assert images_needed(79_999, 0, 8_000_000, margin=0.01) is None
    assert images_needed(0, 0, 10, margin=0.0) is None
    assert images_needed(10, 0, 10, margin=1.0) == 1


@pytest.mark.parametrize(("images", "most_failing"), [(300, 0.09), (846, 0.058)])
def test_how_often_the_gate_errs_where_the_true_drop_is_just_the_margin(images: int, most_failing: float) -> None:
    """Exactly, by enumeration; the README says both figures."""
    margin, won_share = 0.01, 0.002
    failing = passing = 0.0
    for lost in range(25):
        for won in range(12):
            share = float(binom.pmf(lost, images, won_share + margin))
            share *= float(binom.pmf(won, images - lost, won_share / (1 - won_share - margin)))
            if share > 1e-9:
                lower, upper = bounds(lost, won, images)
                failing += share * (lower > margin)
                passing += share * (upper <= margin)
    assert 0.05 < failing < most_failing
    assert passing < 0.05
