import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from targets.device.sensors.gauge import CLOCK, Sensors, SwitchedOff, Unreadable, number, reader, text


def test_numbers_of_files(tmp_path: Path) -> None:
    (tmp_path / "clock").write_text("1500000\n")
    assert number(tmp_path / "clock") == 1_500_000
    assert reader(tmp_path / "clock", 1e-3)() == 1500
    (tmp_path / "bits").write_text("50005\n")
    assert number(tmp_path / "bits", 16) == 0x50005


@pytest.mark.parametrize("said", ["", "on", "1.5", "<unsupported>"])
def test_what_is_no_number_is_shown(tmp_path: Path, said: str) -> None:
    (tmp_path / "clock").write_text(said)
    with pytest.raises(Unreadable, match=rf"clock contains '{said}', which is not an integer"):
        number(tmp_path / "clock")


def test_the_reason_is_that_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="absent does not exist"):
        text(tmp_path / "absent")
    with pytest.raises(Unreadable, match="cannot be read: Is a directory"):
        text(tmp_path)


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (errno.EACCES, Unreadable, f"is not readable for user {os.getuid()}; run as root"),
        (errno.EAGAIN, SwitchedOff, "has no value now"),
        (errno.EIO, Unreadable, "cannot be read: Input/output error"),
    ],
)
def test_errors_that_only_a_driver_gives(
    monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Unreadable], message: str
) -> None:
    def refuse(*_arguments: object, **_options: object) -> str:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(kind, match=message):
        text(Path("/sys/somewhere"))


def test_a_sensor_that_says_try_again_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Iterator[OSError | str] = iter([OSError(errno.EAGAIN, "try again"), "45000\n"])

    def hesitate(*_arguments: object, **_options: object) -> str:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(Path, "read_text", hesitate)
    assert number(Path("/sys/class/thermal/thermal_zone0/temp")) == 45000


def test_a_gauge_without_an_answer_is_left_out_with_its_reason_and_one_that_sleeps_is_kept() -> None:
    def broken() -> float:
        raise Unreadable("it is broken.")

    def asleep() -> float:
        raise SwitchedOff("it sleeps.")

    sensors = Sensors()
    assert sensors.add(CLOCK, "good", lambda: 1.0, missing="clock of good")
    assert not sensors.add(CLOCK, "bad", broken, missing="clock of bad")
    assert not sensors.add(CLOCK, "unknown", broken)
    assert sensors.add(CLOCK, "asleep", asleep, missing="clock of asleep")
    assert [gauge.name for gauge in sensors.gauges] == ["good", "asleep"]
    assert sensors.missing == {"clock of bad": "it is broken."}
