"""What ends work in other threads: from the moment it is set no program of ours is left running."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Stop:
    """Set by whoever waits for the threads; kills their programs, and none is started after it."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        """End every program, now."""
        with self._lock:
            self._event.set()
            for process in self._running:
                kill(process)

    def wait(self, seconds: float) -> bool:
        """Sleep, but not beyond the moment it is set; whether it is."""
        return self._event.wait(seconds)

    @contextmanager
    def watching(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """`process` ends when this is left, or when all is to stop."""
        with self._lock:
            self._running.add(process)
            if self._event.is_set():
                kill(process)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(process)
            if process.poll() is None:
                kill(process)
            process.wait()


def kill(process: subprocess.Popen[bytes]) -> None:
    """Of our own session alone, so that what it started goes with it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
