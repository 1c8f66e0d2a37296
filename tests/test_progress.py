"""Shares of work as steps of a task: nested, of unknown number, and never more or fewer than the task has."""

import pytest
from tiny_progress import Counted

from pipeline.progress import Silent, ignore, ignore_share, portion, reporting


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 100, 1000])
def test_shares_of_any_number_reach_the_total(parts: int) -> None:
    progress = Counted()
    with reporting(progress, "work", 100) as report:
        for _ in range(parts):
            report(1 / parts)
    work = progress.named("work")
    assert (work.done, work.total) == (100, 100)
    assert min(work.steps) >= 1
    assert len(work.steps) == min(parts, 100)


def test_steps_are_told_as_soon_as_they_are_whole() -> None:
    progress = Counted()
    with reporting(progress, "work", 10) as report:
        report(0.25)
        assert progress.named("work").done == 2
        report(0.04)
        assert progress.named("work").done == 2
        report(0.01)
        assert progress.named("work").done == 3
    assert progress.named("work").done == 10


def test_a_portion_ends_where_the_next_one_begins_whatever_it_has_told() -> None:
    progress = Counted()
    with reporting(progress, "work", 100) as report:
        with portion(report, 0.5) as part:
            for _ in range(9):
                part(0.3)  # more than there is
        assert progress.named("work").done == 50
        with portion(report, 0.3), portion(report, 0.2):
            pass
        assert progress.named("work").done == 100
    assert progress.named("work").done == 100


def test_portions_of_portions_tell_where_they_are() -> None:
    progress = Counted()
    with reporting(progress, "work", 100) as report, portion(report, 0.5, "cut 1 of 2") as cut:
        cut(0.0, note="exporting")
        with portion(cut, 0.5, "trial 1") as trial:
            trial(1.0, note="run 1")
            assert progress.named("work").done == 25
    assert progress.named("work").notes == [
        "cut 1 of 2",
        "cut 1 of 2, exporting",
        "cut 1 of 2, trial 1",
        "cut 1 of 2, trial 1, run 1",
    ]


def test_what_fails_tells_no_more() -> None:
    progress = Counted()

    def work() -> None:
        with reporting(progress, "work", 100) as report, portion(report, 0.8) as part:
            part(0.5)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    assert progress.named("work").done == 40


def test_who_says_nothing_takes_everything() -> None:
    progress = Silent()
    progress.line("")
    progress.detail("")
    ignore(3, note="a note")
    ignore_share(0.5, note="a note")
    with reporting(progress, "work") as report:
        report(1.0)
