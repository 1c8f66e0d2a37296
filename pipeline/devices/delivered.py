"""Result for one device."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import AccuracyReport
from pipeline.devices.inventory import Device
from pipeline.errors import DeployError


@dataclass(kw_only=True)
class Delivered:
    """Result for one device, including its error."""

    device: Device
    target: str
    error: DeployError | None = None
    report: AccuracyReport | None = None
    notes: tuple[str, ...] = ()
    image: str | None = None
    folder: Path | None = None
    was_done_before: bool = False
    sent_files: int = 0
    sent_bytes: int = 0
    seconds: float = 0.0
