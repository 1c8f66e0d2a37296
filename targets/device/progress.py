"""The progress of a start, for readiness responses, the status page, the log and the metrics."""

from __future__ import annotations

import logging
import time
from typing import Any, Callable, Dict

from targets.device.errors import ModelError

LOG = logging.getLogger(__name__)
LOAD = "load"
HEARTBEAT_SECONDS = 30.0


class Stopped(ModelError):
    """A stop was requested during the start."""


class Progress:
    """The phases of a start; written by the model's thread, read by any thread."""

    def __init__(
        self, stopping: Callable[[], bool] = lambda: False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stopping = stopping
        self._clock = clock
        self._begun = self._since = self._logged_at = clock()
        self._finished: Dict[str, float] = {}
        self.phase = LOAD
        self.detail = "the model is being loaded and checked against its golden images"

    def enter(self, phase: str, detail: str) -> None:
        """Begin the next phase; raise `Stopped`."""
        self.check()
        self._finish()
        self.phase, self.detail = phase, detail
        LOG.info("starting", extra={"fields": {"phase": phase, "reason": detail}})

    def note(self, detail: str) -> None:
        """Set the current step of the phase, and log it periodically as a sign of life. Raises `Stopped`."""
        self.check()
        self.detail = detail
        now = self._clock()
        if now - self._logged_at >= HEARTBEAT_SECONDS:
            self._logged_at = now
            fields = {"phase": self.phase, "reason": detail, "seconds": round(now - self._since)}
            LOG.info("still starting", extra={"fields": fields})

    def check(self) -> None:
        """Raise `Stopped` if a stop was requested."""
        if self._stopping():
            raise Stopped("stopped before the start was finished; completed steps are kept for the next start")

    def end(self) -> None:
        """End the last phase."""
        self._finish()
        self.phase, self.detail = "", ""

    @property
    def words(self) -> str:
        """The current step and its duration, in one sentence."""
        if self.phase == LOAD:
            return self.detail
        return f"{self.detail}; {self._clock() - self._since:.0f} s so far"

    def seconds_by_phase(self) -> Dict[str, float]:
        """Return the seconds of each phase, the current one so far; without loading, which every start does."""
        found = dict(self._finished)
        if self.phase not in ("", LOAD):
            found[self.phase] = found.get(self.phase, 0.0) + self._clock() - self._since
        return found

    def as_json(self) -> Dict[str, Any]:
        now = self._clock()
        return {
            "phase": self.phase,
            "detail": self.detail,
            "seconds": round(now - self._since, 1),
            "seconds_in_all": round(now - self._begun, 1),
        }

    def _finish(self) -> None:
        now = self._clock()
        if self.phase not in ("", LOAD):
            self._finished[self.phase] = self._finished.get(self.phase, 0.0) + now - self._since
        self._since = self._logged_at = now
