"""The server's metrics in Prometheus' text format, and recent latencies for the status page.

Names follow https://prometheus.io/docs/practices/naming/: base units, `_total` for counters.
"""

from __future__ import annotations

import resource
import time
from collections import deque
from pathlib import Path
from typing import Deque, Dict, Mapping, Optional, Tuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from targets.device.model.manifest import Manifest

# Creation times of the counters equal the server's start time, and would double the size of the output.
disable_created_metrics()  # type: ignore[no-untyped-call]
# Of the text format; the library's version for Python 3.8 has no constant for it.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# From a tiny network on a fast CPU to ResNet-152 on a slow one, with queueing.
SECONDS_BUCKETS = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
RECENT = 1000
STATM = Path("/proc/self/statm")
# Error kinds by HTTP status.
KINDS = {
    400: "bad_request",
    401: "no_token",
    403: "no_certificate",
    404: "not_found",
    405: "wrong_method",
    408: "too_slow",
    413: "too_large",
    415: "unknown_encoding",
    429: "too_many_requests",
    431: "head_too_large",
    500: "internal",
    503: "not_ready_or_too_late",
}


class Metrics:
    """The metrics of one server, with its own registry."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "edge_deploy_requests",
            "Inference requests by protocol and HTTP status",
            ("protocol", "status"),
            registry=registry,
        )
        self._errors = Counter(
            "edge_deploy_errors", "Refused requests of any path by kind", ("kind",), registry=registry
        )
        self._seconds = Histogram(
            "edge_deploy_request_seconds",
            "From the last byte of an inference request to its answer",
            registry=registry,
            buckets=SECONDS_BUCKETS,
        )
        self._inference = Histogram(
            "edge_deploy_inference_seconds", "One run of the model", registry=registry, buckets=SECONDS_BUCKETS
        )
        self._batch = Histogram(
            "edge_deploy_batch_images", "Images of one run of the model", registry=registry, buckets=BATCH_BUCKETS
        )
        self._images = Counter("edge_deploy_images", "Images that were answered", registry=registry)
        self._waiting = Gauge("edge_deploy_waiting_requests", "Requests held, waiting or answered", registry=registry)
        self._connections = Gauge("edge_deploy_connections", "Open connections", registry=registry)
        self._ready = Gauge("edge_deploy_ready", "1 once the golden images have matched here", registry=registry)
        self._started = Gauge(
            "edge_deploy_start_time_seconds", "When the server started, Unix time", registry=registry
        )
        self._started.set(time.time())
        self._starting = Gauge(
            "edge_deploy_start_phase_seconds",
            "What each phase of a first start took, the present one so far",
            ("phase",),
            registry=registry,
        )
        self._info: Optional[Gauge] = None
        self._facts: Dict[str, str] = {}
        ProcessCollector(registry=registry)
        self._since = time.monotonic()
        self._recent: Deque[float] = deque(maxlen=RECENT)
        self._by_status: Dict[Tuple[str, int], Counter] = {}
        self.answered = 0
        self.refused = 0

    def describe(self, manifest: Manifest, place: str) -> None:
        """Set the model and its runtime; both may change while a GPU's engine is being proven."""
        facts = {
            "model": manifest.name,
            "version": manifest.version,
            "target": manifest.target,
            "precision": manifest.precision,
            "model_sha256": manifest.model_sha256,
            "runs_on": place,
        }
        if facts == self._facts:
            return
        if self._info is not None:
            self._registry.unregister(self._info)
        self._facts = facts
        self._info = Gauge("edge_deploy_model_info", "The model that is served", tuple(facts), registry=self._registry)
        self._info.labels(**facts).set(1)

    def starting(self, seconds_by_phase: Mapping[str, float]) -> None:
        """Set the seconds of each phase of a first start."""
        for phase, seconds in seconds_by_phase.items():
            self._starting.labels(phase).set(seconds)

    def inferred(self, images: int, seconds: float) -> None:
        """Count one run of the model; called from any of the model's threads."""
        self._inference.observe(seconds)
        self._batch.observe(images)

    def answered_request(self, protocol: str, status: int, seconds: float, images: int) -> None:
        """Count an answered inference request; `images` is 0 if it was refused."""
        key = (protocol, status)
        counter = self._by_status.get(key)
        if counter is None:
            counter = self._by_status[key] = self._requests.labels(protocol, str(status))
        counter.inc()
        if status == 200:
            self.answered += 1
            self._recent.append(seconds)
            self._seconds.observe(seconds)
            self._images.inc(images)

    def refused_request(self, status: int) -> None:
        """Count a refused request of any path by its HTTP status."""
        self.refused += 1
        self._errors.labels(KINDS.get(status, "other")).inc()

    @property
    def uptime_seconds(self) -> float:
        return time.monotonic() - self._since

    def latency_ms(self) -> Optional[Dict[str, float]]:
        """Return p50, p90 and p99 of the last thousand responses; None before the first."""
        recent = sorted(self._recent)
        if not recent:
            return None
        figures = {
            f"p{share}": 1e3 * recent[min(len(recent) - 1, len(recent) * share // 100)] for share in (50, 90, 99)
        }
        return {**figures, "count": len(recent)}

    def text(self, *, waiting: int, connections: int, ready: bool) -> bytes:
        """Return all metrics in Prometheus' text format."""
        self._waiting.set(waiting)
        self._connections.set(connections)
        self._ready.set(float(ready))
        return generate_latest(self._registry)


def resident_mib() -> float:
    """Return the resident memory of this process in MiB; 0 without /proc."""
    try:
        pages = int(STATM.read_text(encoding="ascii").split()[1])
    except OSError:
        return 0.0
    return pages * resource.getpagesize() / (1 << 20)
