import time

import pytest
from fleet_senders import Heard

from pipeline.devices import ssh
from pipeline.devices.inventory import Device
from pipeline.devices.ssh import Stop, pause_before, retry
from pipeline.errors import AccessDenied, ConnectionLost, DeployError, HostUnreachable


class Stopless(Stop):
    """Sleeps for no time, and remembers for how long it should have."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.slept.append(seconds)
        return self.is_set


def attempts(*errors: DeployError | None, retries: int, seconds: float = 1000.0) -> tuple[int, Stopless, Heard]:
    left, stop, heard = list(errors), Stopless(), Heard()

    def work() -> int:
        error = left.pop(0)
        if error is not None:
            raise error
        return len(errors) - len(left)

    device = Device(name="it", address="it", retries=retries)
    deadline = time.monotonic() + seconds
    return retry(work, device, deadline=deadline, progress=heard, stop=stop), stop, heard


def test_a_connection_is_made_anew_after_longer_and_longer_pauses() -> None:
    lost = [ConnectionLost("lost") for _ in range(6)]
    done, stop, heard = attempts(*lost, None, retries=6)
    assert done == 7
    assert stop.slept == [1, 2, 4, 8, 16, 30]
    assert heard.lines[0].endswith("Trying again in 1 s (1 of 6).")
    assert pause_before(20) == ssh.LONGEST_PAUSE


def test_a_device_that_went_away_and_does_not_come_back_was_lost() -> None:
    with pytest.raises(ConnectionLost, match="first"):
        attempts(ConnectionLost("first"), HostUnreachable("gone"), HostUnreachable("gone"), retries=2)


def test_one_that_was_never_there_is_unreachable() -> None:
    with pytest.raises(HostUnreachable):
        attempts(HostUnreachable("a"), HostUnreachable("b"), retries=1)


def test_nothing_else_is_tried_again() -> None:
    with pytest.raises(AccessDenied):
        attempts(AccessDenied("no"), None, retries=9)


def test_no_pause_goes_beyond_the_time_that_is_given() -> None:
    with pytest.raises(ConnectionLost):
        attempts(ConnectionLost("lost"), None, retries=9, seconds=0.5)
