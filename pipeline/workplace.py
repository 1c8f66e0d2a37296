"""What every stage's work is handed besides its settings."""

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
    """Where a stage works: what no result of it depends on."""

    folder: Path
    """Empty; what lies in it when the work is done is the stage's result."""
    progress: Progress
    continuation: Continuation | None = None
    """Where training is kept after every epoch, and gone on from."""
    processes: int = 1
    """That share every batch of a training."""
