"""What the server says of itself: all that the status page shows, and the model's metadata.

The status page of a device: one file that needs nothing else, and what a browser may do with it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from targets.device.model.manifest import TENSORRT, Manifest
from targets.device.server.endpoint import OUTPUT
from targets.device.server.inputs import describe_inputs
from targets.device.server.metrics import resident_mib
from targets.device.server.service import Service


def status_of(service: Service, *, waiting: int, connections: int) -> Dict[str, Any]:
    """The server's state, ready for JSON."""
    readiness, metrics = service.readiness, service.metrics
    return {
        "server": "edge-deploy",
        "ready": readiness.ready,
        "loading": readiness.loading,
        "reason": readiness.reason,
        "progress": service.progress.as_json() if readiness.loading else None,
        "uptime_seconds": round(metrics.uptime_seconds, 1),
        "model": _model(service),
        "golden": _golden(service),
        "remark": "" if service.started is None else service.started.remark,
        "proof": None if service.proof is None else asdict(service.proof),
        "requests": {
            "answered": metrics.answered,
            "refused": metrics.refused,
            "waiting": waiting,
            "connections": connections,
        },
        "latency_ms": metrics.latency_ms(),
        "memory_mib": round(resident_mib(), 1),
    }


def metadata_of(service: Service, manifest: Manifest) -> Dict[str, Any]:
    """The protocol's metadata of the model, ready for JSON."""
    return {
        "name": manifest.name,
        "versions": [manifest.version],
        "platform": platform_of(manifest),
        "inputs": describe_inputs(manifest),
        "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(manifest.classes)]}],
        "parameters": {
            "classes": list(manifest.classes),
            "target": manifest.target,
            "precision": manifest.precision,
            "variant": service.variant,
            "variant_reason": service.variant_reason,
            "model_sha256": manifest.model_sha256,
            "runs_on": service.place,
        },
    }


def platform_of(manifest: Manifest) -> str:
    """What serves it, by the names that the protocol's documents use."""
    return "tensorrt_plan" if manifest.runtime == TENSORRT else "onnx_onnxv1"


def _model(service: Service) -> Optional[Dict[str, Any]]:
    manifest = service.manifest
    if manifest is None:
        return None
    return {
        "name": manifest.name,
        "version": manifest.version,
        "target": manifest.target,
        "precision": manifest.precision,
        "weight_bits": manifest.weight_bits,
        "variant": service.variant,
        "variant_reason": service.variant_reason,
        "comparison": service.comparison,
        "model_sha256": manifest.model_sha256,
        "classes": len(manifest.classes),
        "input_shape": list(manifest.input_shape),
        "runs_on": service.place,
    }


def _golden(service: Service) -> Optional[Dict[str, Any]]:
    result = service.golden
    if result is None:
        return None
    return {
        "images": result.images,
        "agreement": result.agreement,
        # JSON knows no infinity.
        "max_difference": result.max_difference if result.max_difference < float("inf") else None,
        "reason": result.reason,
    }


FILE = "status.html"
STYLE = re.compile(rb"<style>(.*?)</style>", re.DOTALL)
SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def page() -> Tuple[bytes, str]:
    """The page, to be sent as `text/html; charset=utf-8`, and the value of its Content-Security-Policy.

    It runs no style and no script but its own and asks no server but the one it came from, so that a name which
    holds markup does nothing even if it should get into the page as such.
    """
    content = (Path(__file__).parent / FILE).read_bytes()
    directives = (
        "default-src 'none'",
        f"style-src {_source(STYLE, content)}",
        f"script-src {_source(SCRIPT, content)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return content, "; ".join(directives)


def _source(element: "re.Pattern[bytes]", content: bytes) -> str:
    """The hash that allows the page's one element of this kind."""
    (text,) = element.findall(content)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
