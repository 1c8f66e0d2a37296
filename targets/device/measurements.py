"""`measurements.json`: how a model runs where it was proven, as `bench` tells it."""

from __future__ import annotations

import logging
from typing import Any, Dict, Optional

from targets.device.bench.bench import bench
from targets.device.errors import ModelError
from targets.device.model.session import Session
from targets.device.progress import Progress

LOG = logging.getLogger(__name__)
LIMIT = 3.0
"""How many times as long it may take until the device stands still; a start is waited for."""


def measure_latency(session: Session, seconds: float, progress: Progress) -> Optional[Dict[str, Any]]:
    """At batch 1; None where it is not asked for, or not to be had: that says nothing against the model."""
    if not seconds:
        return None
    progress.enter("measure", f"measuring the model until it stands still, for about {LIMIT * seconds:g} s at most")
    try:
        return bench(session, shape=(1, *session.input_shape), seconds=seconds, limit=LIMIT * seconds)
    except ModelError as error:
        LOG.warning("the model could not be measured", extra={"fields": {"reason": str(error)}})
        return None
