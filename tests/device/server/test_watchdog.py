"""The watch, in a process of its own, as it ends the one that it is in."""

import pytest
from device_server import python

from targets.device.server.watchdog import STUCK_STATUS

START = """
import asyncio, sys, threading, time
from targets.device.server import watchdog as watch
watch.WATCH_SECONDS = 0.05
running = []
async def main():
    made = watch.Watch(lambda: tuple(running), 0.1)
    {}
    made.stop()
asyncio.run(main())
print("over")
"""


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("running[:] = [7]; await asyncio.sleep(20)", id="model"),
        pytest.param(
            "running[:] = [7]\n    for each in range(8, 999): running[1:] = [each]; await asyncio.sleep(0.02)",
            id="one",
        ),
        pytest.param("time.sleep(20)", id="loop"),
        pytest.param("watch.LOG.critical = lambda *a, **k: time.sleep(60); time.sleep(20)", id="log"),
    ],
)
def test_what_hangs_ends_the_process(program: str) -> None:
    shown = python("-c", START.format(program))
    assert (shown.returncode, shown.stdout) == (STUCK_STATUS, "")


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("await asyncio.sleep(1)", id="idle"),
        pytest.param("for number in range(50): running[:] = [number, -number]; await asyncio.sleep(0.02)", id="busy"),
        pytest.param("made.stop(); time.sleep(1)", id="stopped"),
    ],
)
def test_what_goes_on_is_left_alone(program: str) -> None:
    shown = python("-c", START.format(program))
    assert (shown.returncode, shown.stdout) == (0, "over\n"), shown.stderr
