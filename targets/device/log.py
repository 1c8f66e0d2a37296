"""Log lines as JSON, one object per line, as log collectors expect."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from typing import Any, Callable, Dict, Optional, TextIO

PER_SECOND = 10


class JsonLines(logging.Formatter):
    """`{"time": …, "level": …, "message": …}` and the fields given as `extra={"fields": {…}}`."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: Dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            entry.update(fields)
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class Throttle:
    """Limits one kind of line to `PER_SECOND` per second, so that bad clients do not fill the device's disk."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._second = -1
        self._lines = 0
        self._dropped = 0

    def lets_through(self) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines <= PER_SECOND:
            return True
        self._dropped += 1
        return False

    def fields(self) -> Dict[str, int]:
        """Return the number of lines dropped since the last one, as fields for the next line."""
        dropped, self._dropped = self._dropped, 0
        return {"lines_dropped_before": dropped} if dropped else {}


def log_as_json(level: str, stream: Optional[TextIO] = None) -> None:
    """Send this process's logs and warnings to stdout (or `stream`) as JSON lines.

    Raises ValueError for an unknown level.
    """
    handler = logging.StreamHandler(sys.stdout if stream is None else stream)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # Pillow's warnings repeat client input, and Python keeps every distinct warning in memory.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
