"""Write the files of a proof on a device, next to its engine or into any folder."""

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
    """Replace `file` atomically with what `write` writes: a reader finds the old file or the new one."""
    # A unique name per writer: processes in two containers may both have PID 1.
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
    """Write `report.json`, `measurements.json` and `predictions.npz` of a start; raise `OSError`."""
    for name, document in ((proof.FILE, found.report), (MEASUREMENTS, found.measurements)):
        if document is not None:
            text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
            write_whole(folder / name, partial(write_text, text=text))
    if found.predictions is not None:
        write_whole(folder / PREDICTIONS, found.predictions.write)


def kept_measurements(entry: Path) -> Optional[Dict[str, Any]]:
    """Return the measurements of an earlier start; None if there are none."""
    try:
        raw = json.loads((entry / MEASUREMENTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return raw if isinstance(raw, dict) else None


def write_text(file: Path, text: str) -> None:
    """Write UTF-8 text, for `write_whole`."""
    file.write_text(text, encoding="utf-8")
