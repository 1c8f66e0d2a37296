"""The files that prove a model on a device, beside its engine or wherever they are asked for."""

from __future__ import annotations

import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Optional

from targets.device.files import MEASUREMENTS, PREDICTIONS
from targets.device.gate import report as proof
from targets.device.gate.started import Started


def write_whole(file: Path, write: Callable[[Path], None]) -> None:
    """`write` a file beside `file` and put it in its place: a reader finds the old one or the new one."""
    # A name of its own for each writer: in two containers each process may be number 1.
    handle, name = tempfile.mkstemp(prefix=f".{file.name}-", suffix=file.suffix, dir=str(file.parent))
    os.close(handle)
    try:
        write(Path(name))
        Path(name).chmod(0o644)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink()
        raise


def write_evidence(folder: Path, found: Started) -> None:
    """`report.json`, `measurements.json` and `predictions.npz` of a start; raises `OSError`."""
    for name, document in ((proof.FILE, found.report), (MEASUREMENTS, found.measurements)):
        if document is not None:
            text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
            write_whole(folder / name, partial(write_text, text=text))
    if found.predictions is not None:
        write_whole(folder / PREDICTIONS, found.predictions.write)


def kept_measurements(entry: Path) -> Optional[Dict[str, Any]]:
    """Of an earlier start."""
    try:
        raw = json.loads((entry / MEASUREMENTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return raw if isinstance(raw, dict) else None


def write_text(file: Path, text: str) -> None:
    """For `write_whole`."""
    file.write_text(text, encoding="utf-8")
