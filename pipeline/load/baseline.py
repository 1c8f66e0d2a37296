"""How much of the float network is right: what everything that follows is held against."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.sample_size import check_expected, detectable_loss
from pipeline.errors import WorkspaceError

BASELINE = "baseline.json"
GATE_LOGITS = "gate-logits.npy"


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Right answers of the float network that came in, in PyTorch."""

    gate_right: int
    gate_images: int
    selection_right: int
    """Of the selection split: parts of the training images, which the network may know by heart."""
    selection_images: int
    stated: float | None = None
    """Share of right answers that the file itself says the network had where it was trained."""
    stated_as: str = ""
    """The key of that in the file."""

    def check(self, expected: float | None) -> None:
        """Raise `DataError` where fewer are right than expected by more than chance explains.

        What the file itself states counts where nobody says what is expected here.
        """
        reference = self.stated if expected is None else expected
        if reference is not None:
            source = "expected_accuracy" if expected is not None else f"{self.stated_as} in the file with the weights"
            check_expected(self.gate_right, images=self.gate_images, expected=reference, source=source)

    def text(self, expected: float | None) -> str:
        """The accuracy, of which images, and what it was held against."""
        found = f"float top-1 {self.gate_right / self.gate_images:.2%} on the gate's {self.gate_images:,} images"
        known = f"{self.selection_right / self.selection_images:.2%} on {self.selection_images:,} images of train/"
        reference = self.stated if expected is None else expected
        if reference is None:
            held = "no expected accuracy was given to hold it against (--expect-accuracy)"
        else:
            loss = 100 * detectable_loss(self.gate_images, reference)
            source = "expected" if expected is not None else f"by {self.stated_as} in the file"
            held = f"{reference:.2%} {source}: {self.gate_images:,} images see a loss of {loss:.1f} points"
        return f"{found}; {held}; {known}, which it may have been trained on"


def read_baseline(folder: Path) -> Baseline:
    """Of a finished `load`; raises `WorkspaceError` where it is damaged."""
    try:
        return Baseline(**json.loads((folder / BASELINE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise WorkspaceError(f"{folder / BASELINE} is damaged ({error}). Remove {folder} and run again.") from None


def read_gate_logits(folder: Path) -> NDArray[np.float32]:
    """The float network's answers [N, C] to the gate's images; raises `WorkspaceError` where they are damaged."""
    try:
        logits: NDArray[np.float32] = np.load(folder / GATE_LOGITS, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise WorkspaceError(f"{folder / GATE_LOGITS} is damaged ({error}). Remove {folder} and run again.") from None
    return logits
