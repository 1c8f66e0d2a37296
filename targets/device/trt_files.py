"""The files beside an engine that say how it was judged and how fast it is."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, Dict, Optional

from targets.device import measurements, predictions, proof
from targets.device.cache import write_whole
from targets.device.started import Started

LAYERS = "layers.json"


def write_evidence(folder: Path, found: Started) -> None:
    """`report.json`, `measurements.json` and `predictions.npz` of a start; raises `CacheError`."""
    for name, document in ((proof.FILE, found.report), (measurements.FILE, found.measurements)):
        if document is not None:
            text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
            write_whole(folder / name, partial(_write_text, text=text))
    if found.predictions is not None:
        write_whole(folder / predictions.FILE, found.predictions.write)


def kept_measurements(entry: Path) -> Optional[Dict[str, Any]]:
    """Of an earlier start."""
    try:
        raw = json.loads((entry / measurements.FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return raw if isinstance(raw, dict) else None


def _write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
