"""`measurements.json`: how fast a model runs here."""

from __future__ import annotations

import time
from typing import Any, Dict, List

import numpy as np

from targets.device.sessions import Session

SCHEMA = 1
LEAST_RUNS = 20
SHARES = (50, 90, 99)


def measurements_of(session: Session, seconds: float) -> Dict[str, Any]:
    """Latencies at batch 1 of so many seconds, copies to a GPU included, ready for JSON; raises `ModelError`.

    Nothing is known here of the device's conditions, so none of it is called stable.
    """
    image = np.zeros((1, *session.input_shape), np.float32)
    session.infer(image)
    found: List[float] = []
    end = time.perf_counter() + seconds
    while len(found) < LEAST_RUNS or time.perf_counter() < end:
        start = time.perf_counter()
        session.infer(image)
        found.append(1e3 * (time.perf_counter() - start))
    found.sort()
    return {
        "schema": SCHEMA,
        "stable": False,
        "reasons": ["clocks, power and temperature were not looked at"],
        "shape": list(image.shape),
        "latency_ms": {f"p{share}": found[min(len(found) - 1, len(found) * share // 100)] for share in SHARES},
        "runs": len(found),
    }
