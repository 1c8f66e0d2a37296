"""How far a start has come, in words, seconds and log lines."""

import logging

import pytest

from targets.device.progress import HEARTBEAT_SECONDS, Progress, Stopped


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_phases_are_timed_and_told() -> None:
    clock = Clock()
    progress = Progress(clock=clock)
    assert progress.words == "the model is being loaded and checked against its golden images"
    clock.now += 2
    assert progress.seconds_by_phase() == {}
    progress.enter("build", "building")
    clock.now += 83.4
    assert progress.words == "building; 83 s so far"
    assert progress.as_json() == {"phase": "build", "detail": "building", "seconds": 83.4, "seconds_in_all": 85.4}
    progress.enter("gate", "asking")
    progress.note("asking, 32 of 64")
    clock.now += 1
    assert progress.words == "asking, 32 of 64; 1 s so far"
    assert progress.seconds_by_phase() == pytest.approx({"build": 83.4, "gate": 1.0})
    progress.enter("build", "building fp16")
    clock.now += 10
    assert progress.seconds_by_phase() == pytest.approx({"build": 93.4, "gate": 1.0})
    progress.end()
    clock.now += 1000
    assert progress.seconds_by_phase() == pytest.approx({"build": 93.4, "gate": 1.0})


def test_a_long_phase_is_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    progress = Progress(clock=clock)
    caplog.set_level(logging.INFO)
    progress.enter("build", "building")
    for _ in range(100):
        clock.now += HEARTBEAT_SECONDS / 40
        progress.note("building")
    told = [record.__dict__["fields"] for record in caplog.records if record.message == "still starting"]
    assert [each["seconds"] for each in told] == [round(HEARTBEAT_SECONDS), round(2 * HEARTBEAT_SECONDS)]
    assert told[0]["phase"] == "build"


def test_a_server_that_is_to_end_goes_no_further() -> None:
    stopping: list[int] = []
    progress = Progress(lambda: bool(stopping))
    progress.enter("build", "building")
    stopping.append(1)
    for step in (progress.check, lambda: progress.note("x"), lambda: progress.enter("gate", "x")):
        with pytest.raises(Stopped):
            step()
    assert progress.phase == "build"
