"""This machine as a device."""

import time

from pipeline.devices.inventory import LOCAL, Device
from pipeline.devices.ssh import Connection, Stop
from pipeline.progress import Silent


def local(**changes: float) -> Device:
    return Device(name=LOCAL, address=LOCAL, is_local=True, **changes)  # type: ignore[arg-type]


def connected(device: Device, seconds: float = 60) -> Connection:
    return Connection(device, deadline=time.monotonic() + seconds, progress=Silent(), stop=Stop())
