import io
import time

import pytest
from rich.console import Console

from pipeline.cli.console import RECENT_S, RECENT_STEPS, Estimate, Plain, Terminal

SHORT_S = 0.01
LONGEST_S = 30.0
"""After which what is waited for does not come any more."""


def told(capsys: pytest.CaptureFixture[str], wanted: str) -> str:
    """What stderr says by the time that `wanted` is in it."""
    text, end = "", time.monotonic() + LONGEST_S
    while wanted not in text:
        assert time.monotonic() < end, text
        text += capsys.readouterr().err
        time.sleep(SHORT_S)
    return text


def test_plain_lines_go_to_stderr_alone(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Plain(is_verbose=False)
    progress.line("a line [brackets]")
    progress.detail("hidden")
    with progress.task("train", total=2) as advance:
        advance(note="loss 1")
        advance()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "a line [brackets]\n"


def test_long_work_is_told_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = 1000.0
    progress = Plain(is_verbose=False, interval_s=SHORT_S, clock=lambda: now)
    with progress.task("train", total=3) as advance:
        now += 10
        advance(note="loss 0.5")
        text = told(capsys, "1 of 3")
        assert "train: 1 of 3, about 20 s left  loss 0.5\n" in text
        now += 30
        advance()
        # The last note holds, and the time left is by the pace so far.
        assert "train: 2 of 3, about 20 s left  loss 0.5\n" in told(capsys, "2 of 3")
        now += 5
        assert "train: 2 of 3, about 15 s left  loss 0.5\n" in told(capsys, "15 s left")
        advance()
        assert "train: 3 of 3, 45 s so far  loss 0.5\n" in told(capsys, "3 of 3")
    capsys.readouterr()
    time.sleep(3 * SHORT_S)
    assert capsys.readouterr().err == ""


def test_a_first_step_that_takes_long_is_no_silence(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    progress = Plain(is_verbose=False, interval_s=SHORT_S, clock=lambda: now)
    with progress.task("export", total=1) as advance:
        now += 16
        assert "export: 0 of 1, 16 s so far\n" in told(capsys, "16 s")
        advance(0, note="writing")
        assert "export: 0 of 1, 16 s so far  writing\n" in told(capsys, "writing")


def test_a_task_that_fails_is_told_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Plain(is_verbose=False, interval_s=SHORT_S)
    with pytest.raises(ValueError, match="broken"), progress.task("train", total=3):
        raise ValueError("broken")
    capsys.readouterr()
    time.sleep(3 * SHORT_S)
    assert capsys.readouterr().err == ""


def test_details_are_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    Plain(is_verbose=True).detail("+ docker build")
    assert capsys.readouterr().err == "+ docker build\n"


def test_a_terminal_shows_lines_as_they_are() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    progress = Terminal(console, is_verbose=False)
    with progress.task("quantize", total=10) as advance:
        advance(5, note="loss 0.1")
        progress.line("a [line]")
    assert isinstance(console.file, io.StringIO)
    assert "a [line]" in console.file.getvalue()
    assert "quantize" in console.file.getvalue()


def test_a_terminal_tells_the_time_left_of_steps_that_take_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Terminal(console, is_verbose=False).task("profile", total=4) as advance:
        now += 150
        advance()
    assert isinstance(console.file, io.StringIO)
    assert "-:--:--" in console.file.getvalue()
    assert "0:07:30" in console.file.getvalue()


def test_the_time_left_follows_the_pace_of_late() -> None:
    estimate = Estimate(1000, now=0.0)
    assert estimate.left_s(now=0.0) is None
    for second in range(1, 101):
        estimate.advance(1, now=float(second))
    assert estimate.left_s(now=100.0) == pytest.approx(900)
    # Four times as fast from here on; once the slow part is long past, it counts no more.
    for quarter in range(1, 4 * round(RECENT_S) + 20):
        estimate.advance(1, now=100 + quarter / 4)
    now = 100 + (4 * round(RECENT_S) + 19) / 4
    assert estimate.left_s(now=now) == pytest.approx((1000 - estimate.done) / 4, rel=0.02)


def test_between_two_steps_the_time_left_runs_down_and_stops_where_the_other_steps_begin() -> None:
    estimate = Estimate(5, now=0.0)
    estimate.advance(1, now=40.0)
    assert [estimate.left_s(now=now) for now in (40.0, 50.0, 80.0, 500.0)] == [160.0, 150.0, 120.0, 120.0]
    estimate.advance(1, now=500.0)
    assert estimate.left_s(now=500.0) == 3 * 250.0


def test_of_steps_that_take_long_the_last_few_count() -> None:
    estimate = Estimate(100, now=0.0)
    for step in range(1, 6):
        estimate.advance(1, now=500.0 * step)
    assert estimate.left_s(now=2500.0) == 95 * 500.0
    for step in range(1, RECENT_STEPS + 1):
        estimate.advance(1, now=2500.0 + 100 * step)
    assert estimate.left_s(now=2500.0 + 100 * RECENT_STEPS) == (95 - RECENT_STEPS) * 100.0
    estimate.advance(100 - estimate.done, now=3000.0)
    assert estimate.left_s(now=3000.0) is None


def test_calls_without_steps_are_no_pace() -> None:
    estimate = Estimate(5, now=0.0)
    for second in range(50):
        estimate.advance(0, now=float(second))
    assert estimate.left_s(now=50.0) is None
    assert estimate.words(now=50.0) == "0 of 5, 50 s so far"


def test_short_tasks_in_a_row_are_no_silence(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    progress = Plain(is_verbose=False, interval_s=1000.0, clock=lambda: now)
    with progress.task("first", total=1):
        now += 600
    with progress.task("second", total=1):
        now += 500
        assert capsys.readouterr().err == ""
    with progress.task("third", total=2):
        assert "third: 0 of 2, 0 s so far\n" in told(capsys, "third")
