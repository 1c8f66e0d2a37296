"""What TensorRT says while it works; its exceptions and return values say only that something failed."""

from __future__ import annotations

from typing import List

import tensorrt as trt

MOST_LINES = 12


class Log(trt.ILogger):  # type: ignore[misc, unused-ignore]
    """Keeps errors and warnings, in order; they go into the exception, or into the build's report."""

    def __init__(self) -> None:
        # As TensorRT's binding asks for: super() would not construct the part in C++.
        trt.ILogger.__init__(self)
        self.errors: List[str] = []
        self.warnings: List[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Called by TensorRT, from threads of its own, too."""
        if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
            self.errors.append(msg.strip())
        elif severity == trt.ILogger.Severity.WARNING:
            self.warnings.append(msg.strip())

    def reason(self) -> str:
        """The errors as one text; the first is the cause, the last ones what came of it."""
        if not self.errors:
            return "TensorRT gives no reason"
        said = [line.rstrip(".") for line in self.errors]
        if len(said) > MOST_LINES:
            said = [*said[: MOST_LINES - 1], f"and {len(said) - MOST_LINES + 1} more"]
        return "; ".join(said)
