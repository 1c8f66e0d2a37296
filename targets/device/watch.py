"""A thread that ends the process where the model or the loop hangs: whoever looks after it starts it anew."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from typing import Callable, Dict, Tuple

LOG = logging.getLogger(__name__)
WATCH_SECONDS = 1.0
# A run that takes so many times as long as a request may wait will never end.
STUCK_FACTOR = 4
STUCK_STATUS = 70
"""EX_SOFTWARE of sysexits.h."""


class Watch:
    """Looks once a second; made in the loop that it watches.

    Time is counted in own looks, so that a machine or a container that was asleep is not taken for one that hangs.
    """

    def __init__(self, running: Callable[[], Tuple[int, ...]], request_seconds: float) -> None:
        """`running`: a number for everything that the model's threads run, another one for every run."""
        self._loop = asyncio.get_running_loop()
        self._running = running
        self._limit = STUCK_FACTOR * request_seconds
        self._loop_looks = 0
        self._looks: Dict[int, int] = {}
        """In a row, at what is still being run."""
        self._is_over = threading.Event()
        # Not in the loop: a short run of the model is made there, and would take the watch with it.
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
                self._end("the model has not answered for long; ending")
            if self._loop_looks * WATCH_SECONDS >= self._limit:
                self._end("the server's loop has done nothing for long; ending")

    def _beat(self) -> None:
        self._loop_looks = 0

    def _end(self, message: str) -> None:
        fields = {"fields": {"seconds": self._limit}}
        # In a thread, as it may be the log that hangs.
        telling = threading.Thread(target=LOG.critical, args=(message,), kwargs={"extra": fields}, daemon=True)
        telling.start()
        telling.join(WATCH_SECONDS)
        os._exit(STUCK_STATUS)
