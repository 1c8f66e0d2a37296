"""A time that is asked for and a table that is wrong about it: by how much, in which direction, and out of reach."""

from collections.abc import Callable

import pytest
import torch
from tiny_networks import network_of
from tiny_progress import Counted
from tiny_table import table_of

from pipeline.errors import CompressionError
from pipeline.latency.subnetwork import Subnetwork, sites
from pipeline.latency.table import Timing
from pipeline.models.surgery import channel_groups
from pipeline.models.zoo import residual
from pipeline.progress import Report, reporting
from pipeline.prune.by_latency import Clock
from pipeline.prune.report import losses_of
from pipeline.prune.settings import PruneSettings
from pipeline.prune.trials import MAX_TRIALS, Deadline, Time, choose, is_held, times_text

DEEP = residual(depths=(2, 2, 2), stage_widths=(16, 32, 64), classes=("a", "b"), input_size=(16, 16))


@pytest.fixture(scope="module")
def clock() -> Clock:
    network = network_of(DEEP)
    table = table_of(network, DEEP.input_shape, multiple=16)
    groups = channel_groups(network, DEEP.input_shape)
    scores = {group.root: torch.arange(1, group.width + 1, dtype=torch.float32) for group in groups}
    return Clock(table, "int8", sites(network, groups), losses_of(groups, scores, {}, table.grid, images=1))


@pytest.fixture(scope="module")
def full() -> Subnetwork:
    return Subnetwork(widths={group.root: group.width for group in channel_groups(network_of(DEEP), DEEP.input_shape)})


def watch(clock: Clock, full: Subnetwork, error: Callable[[float], float]) -> Time:
    """A clock on which a network takes `error` of what the table says; of the unpruned one the table is right."""
    unpruned = clock.latency_us(full)

    def time(subnetwork: Subnetwork, report: Report) -> Timing:
        report(0.5)
        predicted = clock.latency_us(subnetwork)
        return Timing(
            unpruned_ms=unpruned / 1e3,
            pruned_ms=predicted * error(predicted / unpruned) / 1e3,
            noise=0.01,
        )

    return time


@pytest.mark.parametrize("is_speedup", [True, False], ids=["speedup", "latency"])
@pytest.mark.parametrize("error", [0.8, 0.93, 1.0, 1.05, 1.2])
def test_what_is_chosen_is_as_fast_as_asked_by_the_clock(
    clock: Clock, full: Subnetwork, error: float, is_speedup: bool
) -> None:
    unpruned = clock.latency_us(full)
    speedup = {"speedup": 1.4, "latency_us": None}
    deadline = Deadline(**speedup) if is_speedup else Deadline(speedup=None, latency_us=unpruned / 1.4)
    best, trials = choose(clock, deadline, unpruned, watch(clock, full, lambda share: error))
    assert best in trials
    assert is_held(best, deadline)
    assert best.timing is not None
    assert best.timing.pruned_ms * 1e3 <= unpruned / 1.4 * 1.01
    by_table, (only,) = choose(clock, deadline, unpruned, None)
    assert by_table == only
    assert by_table.timing is None
    if error > 1.01:
        assert not is_held(trials[0], deadline)
        assert clock.latency_us(best.chosen) < clock.latency_us(by_table.chosen)
    if error == 0.8:
        # A table that is too careful gives importance away; the clock gets it back.
        assert clock.loss(best.chosen) < clock.loss(by_table.chosen)


def test_a_table_whose_error_grows_with_the_cut_takes_more_than_one_correction(clock: Clock, full: Subnetwork) -> None:
    deadline = Deadline(speedup=1.5, latency_us=None)
    time = watch(clock, full, lambda share: 1 + 0.5 * (1 - share))
    best, trials = choose(clock, deadline, clock.latency_us(full), time)
    assert is_held(best, deadline)
    assert 2 < len(trials) <= MAX_TRIALS
    # No other that was timed and is fast enough loses less.
    assert clock.loss(best.chosen) == min(clock.loss(each.chosen) for each in trials if is_held(each, deadline))


def test_a_time_that_only_the_table_reaches_is_refused_with_what_the_clock_reached(
    clock: Clock, full: Subnetwork
) -> None:
    unpruned = clock.latency_us(full)
    with pytest.raises(CompressionError, match=r"a speedup of 1\.6 cannot be met: .* closest reaches 1\.") as raised:
        choose(
            clock, Deadline(speedup=1.6, latency_us=None), unpruned, watch(clock, full, lambda share: 1.1 / share**0.9)
        )
    assert "Request what was reached" in str(raised.value)
    with pytest.raises(CompressionError, match="the fastest network of this architecture"):
        choose(clock, Deadline(speedup=1000.0, latency_us=None), unpruned, watch(clock, full, lambda share: 1.0))


@pytest.mark.parametrize("error", [0.8, 1.0, 1.2])
def test_trials_are_told_however_many_they_are(clock: Clock, full: Subnetwork, error: float) -> None:
    progress = Counted()
    deadline = Deadline(speedup=1.4, latency_us=None)
    time = watch(clock, full, lambda share: 1 + (error - 1) * (1 - share))
    with reporting(progress, "choose", 1000) as report:
        _, trials = choose(clock, deadline, clock.latency_us(full), time, report)
        # Each counts half of what is left, and the fifth as much as the fourth.
        left = 0.5 ** len(trials) if len(trials) < MAX_TRIALS else 0
        assert progress.named("choose").done == int(1000 * (1 - left) + 1e-6)
    assert progress.named("choose").done == 1000
    assert progress.named("choose").notes == [f"trial {number + 1}" for number in range(len(trials))]


def test_the_recipe_says_what_was_asked_for() -> None:
    asked = Deadline.of(PruneSettings(latency=2.0))
    assert (asked.latency_us, asked.speedup, str(asked)) == (2000.0, None, "2 ms")
    asked = Deadline.of(PruneSettings(speedup=1.5))
    assert (asked.latency_us, asked.speedup, str(asked)) == (None, 1.5, "a speedup of 1.5")
    assert asked.budget_us(300.0) == 200.0


def test_the_line_says_what_table_and_clock_say_or_why_the_clock_says_nothing(clock: Clock, full: Subnetwork) -> None:
    unpruned = clock.latency_us(full)
    deadline = Deadline(speedup=1.4, latency_us=None)
    best, trials = choose(clock, deadline, unpruned, watch(clock, full, lambda share: 1.05))
    text = times_text(best, unpruned, trials, None)
    assert f"the best of {len(trials)} networks timed" in text
    assert "by the latency table" in text
    assert best.timing is not None
    assert f"{best.timing.pruned_ms:.3g} of {best.timing.unpruned_ms:.3g} ms measured" in text
    only, trials = choose(clock, deadline, unpruned, None)
    assert times_text(only, unpruned, trials, "it is elsewhere").endswith("not measured: it is elsewhere")
