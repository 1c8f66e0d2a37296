"""`measurements.json`: the result of `bench` on the device where the model was proven."""

from __future__ import annotations

import logging
from typing import Any, Dict, Optional

from targets.device.bench.bench import bench
from targets.device.errors import ModelError
from targets.device.model.session import Session
from targets.device.progress import Progress

LOG = logging.getLogger(__name__)
LIMIT = 3.0
"""Multiple of the measured seconds that waiting for stable conditions may take; others wait for the start."""


def measure_latency(session: Session, seconds: float, progress: Progress) -> Optional[Dict[str, Any]]:
    """Measure at batch 1; return None if `seconds` is 0 or the measurement failed, which does not fail the proof."""
    if not seconds:
        return None
    progress.enter("measure", f"measuring the model until results are stable, for about {LIMIT * seconds:g} s at most")
    try:
        return bench(session, shape=(1, *session.input_shape), seconds=seconds, limit=LIMIT * seconds)
    except ModelError as error:
        LOG.warning("the model could not be measured", extra={"fields": {"reason": str(error)}})
        return None
