"""What the fault tests do to a server, and look at: slow models, many clients, memory, files."""

import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

from device_server import Running, http_request, images, json_request

SECONDS = 30.0
HANG, SLOW = 77.0, 78.0
# Runs the server with a model that takes its time where the first value of its images says so.
MOODY = f"""
import sys, time
from targets.device.model import onnxruntime_session as ort_session
plain = ort_session.OnnxRuntimeSession.infer
def moody(self, images):
    first = float(images.flat[0])
    if first == {HANG}:
        time.sleep(3600)
    start = time.perf_counter()
    # Not asleep: libfaketime makes of Python's sleep() an error.
    while first == {SLOW} and time.perf_counter() < start + 0.4:
        pass
    return plain(self, images)
ort_session.OnnxRuntimeSession.infer = moody
from targets.device.__main__ import main
sys.exit(main(["serve"]))
"""


def request_with(first: float, count: int = 1) -> bytes:
    """A good request whose first value is `first`."""
    values = images(count)
    values.flat[0] = first
    return http_request(json.dumps(json_request(values)).encode())


GOOD = request_with(0.5)


def resident_mib(running: Running) -> float:
    fields = Path(f"/proc/{running.process.pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGESIZE") / (1 << 20)


def open_files(running: Running) -> int:
    return len(list(Path(f"/proc/{running.process.pid}/fd").iterdir()))


def eventually(condition: Callable[[], bool], seconds: float = SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def allow_files(count: int) -> None:
    """For this process, which is every client at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
