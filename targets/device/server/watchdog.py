"""A watchdog thread that ends the process if the model or the loop hangs, so that it is restarted from outside."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from typing import Callable, Dict, Tuple

LOG = logging.getLogger(__name__)
WATCH_SECONDS = 1.0
# A run longer than this multiple of the request timeout is considered hung.
STUCK_FACTOR = 4
STUCK_STATUS = 70
"""EX_SOFTWARE in sysexits.h."""


class Watch:
    """A check once a second; created in the loop that it watches.

    Time is counted in checks, so that a suspended machine or container is not mistaken for a hang.
    """

    def __init__(self, running: Callable[[], Tuple[int, ...]], request_seconds: float) -> None:
        """Watch `running`, which returns the serial numbers of the runs in progress."""
        self._loop = asyncio.get_running_loop()
        self._running = running
        self._limit = STUCK_FACTOR * request_seconds
        self._loop_looks = 0
        self._looks: Dict[int, int] = {}
        """Consecutive checks in which each run was in progress."""
        self._is_over = threading.Event()
        # Not in the loop: short runs of the model happen there, and a hang would block the watchdog, too.
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def stop(self) -> None:
        self._is_over.set()

    def _watch(self) -> None:
        while not self._is_over.wait(WATCH_SECONDS):
            self._looks = {run: self._looks.get(run, -1) + 1 for run in self._running()}
            self._loop_looks += 1
            try:
                self._loop.call_soon_threadsafe(self._beat)
            except RuntimeError:
                # The loop has ended.
                return
            if max(self._looks.values(), default=0) * WATCH_SECONDS >= self._limit:
                self._end("the model hangs; exiting")
            if self._loop_looks * WATCH_SECONDS >= self._limit:
                self._end("the server's event loop hangs; exiting")

    def _beat(self) -> None:
        self._loop_looks = 0

    def _end(self, message: str) -> None:
        fields = {"fields": {"seconds": self._limit}}
        # In a thread, because logging itself may hang.
        telling = threading.Thread(target=LOG.critical, args=(message,), kwargs={"extra": fields}, daemon=True)
        telling.start()
        telling.join(WATCH_SECONDS)
        os._exit(STUCK_STATUS)
