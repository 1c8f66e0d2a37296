"""A lost connection is made anew after a while, longer each time; nothing else is tried again."""

import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.devices.failures import RETRIED
from pipeline.devices.inventory import Device
from pipeline.devices.stop import Stop
from pipeline.errors import ConnectionLost
from pipeline.progress import Progress

LONGEST_PAUSE = 30.0

T = TypeVar("T")


def pause_before(attempt: int) -> float:
    """Seconds before attempt 1, 2, …: 1, 2, 4, … and never more than half a minute."""
    return min(2.0 ** (attempt - 1), LONGEST_PAUSE)


def retried(work: Callable[[], T], device: Device, *, deadline: float, progress: Progress, stop: Stop) -> T:
    """What `work` returns, which must go on from where it was; its own error where the device does not come back."""
    first_loss: ConnectionLost | None = None
    attempt = 0
    while True:
        try:
            return work()
        except RETRIED as error:
            if isinstance(error, ConnectionLost):
                first_loss = first_loss or error
            attempt += 1
            pause = pause_before(attempt)
            if attempt > device.retries or time.monotonic() + pause > deadline or stop.is_set:
                # That it cannot be reached now is a consequence.
                raise first_loss or error from None
            progress.line(f"{error} Trying again in {pause:.0f} s ({attempt} of {device.retries}).")
        if stop.wait(pause):
            raise ConnectionLost(f"{device.name} ({device.address}): stopped.")
