"""The server's status as JSON, the model's metadata, and the status page with its Content-Security-Policy."""

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
    """Return the server's state, ready for JSON."""
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
    """Return the protocol's model metadata, ready for JSON."""
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
    """Return the platform's name in the protocol's terms."""
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
        # JSON has no infinity.
        "max_difference": result.max_difference if result.max_difference < float("inf") else None,
        "reason": result.reason,
    }


FILE = "status.html"
STYLE = re.compile(rb"<style>(.*?)</style>", re.DOTALL)
SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def page() -> Tuple[bytes, str]:
    """Return the page, of type `text/html; charset=utf-8`, and the value of its Content-Security-Policy.

    The policy allows only the page's own style and script, and only requests to its own server, so that markup in a
    model's name has no effect even if it gets into the page unescaped.
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
    """Return the policy's hash of the page's only element of this kind."""
    (text,) = element.findall(content)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
