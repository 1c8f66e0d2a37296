"""The evidence that the model is proven on this device, as a JSON document and as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Optional

from targets.device.files import DOCUMENT, ENGINE, LAYERS, PASSPORT, PREDICTIONS
from targets.device.gate.started import Started
from targets.device.server.service import Service

PENDING, PROVEN, FAILED = "pending", "proven", "failed"
SCHEMA = 1


def document_of(service: Service) -> Dict[str, Any]:
    """Return the response to `GET /proof`."""
    started, readiness = service.started, service.readiness
    if started is None:
        return _document(PENDING if readiness.loading else FAILED, readiness.reason, None)
    return document(started)


def document(started: Started) -> Dict[str, Any]:
    """Return the proof document of a started model.

    `failed`: judged and not proven, even if it is served anyway; `pending`: not judged yet.
    """
    is_judged = started.refusal != "" or started.report is not None
    state = PROVEN if started.is_proven else FAILED if is_judged else PENDING
    return _document(state, started.reason, started)


def predictions_of(service: Service) -> Optional[bytes]:
    """Return the bytes of `predictions.npz`; None if there is none."""
    started = service.started
    if started is None or started.folder is None:
        return None
    try:
        return (started.folder / PREDICTIONS).read_bytes()
    except FileNotFoundError:
        return None


def write_to(folder: Path, started: Started) -> None:
    """Write all evidence into `folder`; for a GPU also engine, passport and layer report. Raises `OSError`."""
    # Imported only here, because the server does not need them.
    import shutil

    from targets.device.gate.evidence_files import write_evidence

    if started.folder is not None:
        for name in (ENGINE, PASSPORT, LAYERS):
            shutil.copyfile(str(started.folder / name), str(folder / name))
    write_evidence(folder, started)
    text = json.dumps(document(started), indent=2, ensure_ascii=False) + "\n"
    (folder / DOCUMENT).write_text(text, encoding="utf-8")


def _document(state: str, reason: str, started: Optional[Started]) -> Dict[str, Any]:
    folder = None if started is None else started.folder
    return {
        "schema": SCHEMA,
        "state": state,
        "reason": reason,
        "variant": None if started is None else started.chosen.variant,
        "precision": None if started is None else started.chosen.manifest.precision,
        "comparison": None if started is None else started.comparison,
        "report": None if started is None else started.report,
        "passport": None if folder is None else _read(folder / PASSPORT),
        "layers": None if folder is None else _read(folder / LAYERS),
        "measurements": None if started is None else started.measurements,
    }


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
