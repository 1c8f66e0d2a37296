"""Where a stage works: what no result of it depends on."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.progress import Progress
from pipeline.workspace.training_state import Continuation


@dataclass(frozen=True, kw_only=True)
class Workplace:
    folder: Path
    """Empty; what lies in it when the work is done is the stage's result."""
    progress: Progress
    continuation: Continuation | None = None
    """Where training is kept after every epoch, and gone on from."""
    processes: int = 1
    """That share every batch of a training."""
