"""Input of every stage's work besides its settings."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.data.readers import Dataset
from pipeline.progress import Progress
from pipeline.workspace.training_state import Continuation
from targets.device.model.preprocess import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Data:
    """Images, and how they become the network's input."""

    dataset: Dataset
    preprocessing: Preprocessing


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where a stage works; no result depends on it."""

    folder: Path
    """Empty at first; its contents become the stage's result."""
    progress: Progress
    continuation: Continuation | None = None
    """Where training is saved after every epoch and resumed from."""
    processes: int = 1
    """Processes that train together."""
