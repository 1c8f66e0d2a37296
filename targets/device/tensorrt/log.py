"""TensorRT's log messages; its exceptions and return values only indicate that something failed."""

from __future__ import annotations

from typing import List

import tensorrt as trt

MAX_LINES = 12


class Log(trt.ILogger):  # type: ignore[misc, unused-ignore]
    """A logger that keeps errors and warnings in order, for the exception or the build's report."""

    def __init__(self) -> None:
        # TensorRT's binding requires this: super() would not construct the C++ part.
        trt.ILogger.__init__(self)
        self.errors: List[str] = []
        self.warnings: List[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Record a message; TensorRT also calls it from its own threads."""
        if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
            self.errors.append(msg.strip())
        elif severity == trt.ILogger.Severity.WARNING:
            self.warnings.append(msg.strip())

    def reason(self) -> str:
        """Return the errors as one text; the first is the cause, later ones are consequences."""
        if not self.errors:
            return "TensorRT gives no reason"
        said = [line.rstrip(".") for line in self.errors]
        if len(said) > MAX_LINES:
            said = [*said[: MAX_LINES - 1], f"and {len(said) - MAX_LINES + 1} more"]
        return "; ".join(said)
