"""Accuracy of the float network: the reference for everything that follows."""

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
    """Correct answers of the original float network in PyTorch."""

    gate_right: int
    gate_images: int
    selection_right: int
    """On the selection split: part of the training images, which the network may have memorized."""
    selection_images: int
    stated: float | None = None
    """Accuracy that the file itself states for its network, as a share."""
    stated_as: str = ""
    """Key of that value in the file."""

    def check(self, expected: float | None) -> None:
        """Raise `DataError` if fewer answers are correct than expected, by more than chance explains.

        Without `expected`, the file's own stated accuracy is used.
        """
        reference = self.stated if expected is None else expected
        if reference is not None:
            source = "expected_accuracy" if expected is not None else f"{self.stated_as} in the file with the weights"
            check_expected(self.gate_right, images=self.gate_images, expected=reference, source=source)

    def text(self, expected: float | None) -> str:
        """Return the accuracy, its images, and the reference for it, as text."""
        found = f"float top-1 {self.gate_right / self.gate_images:.2%} on the gate's {self.gate_images:,} images"
        known = f"{self.selection_right / self.selection_images:.2%} on {self.selection_images:,} images of train/"
        reference = self.stated if expected is None else expected
        if reference is None:
            held = "no expected accuracy to compare with (--expect-accuracy)"
        else:
            loss = 100 * detectable_loss(self.gate_images, reference)
            source = "expected" if expected is not None else f"by {self.stated_as} in the file"
            held = f"{reference:.2%} {source}: {self.gate_images:,} images detect a loss of {loss:.1f} points"
        return f"{found}; {held}; {known}, which it may have been trained on"


def read_baseline(folder: Path) -> Baseline:
    """Return the baseline of a finished `load`; raise `WorkspaceError` if it is damaged."""
    try:
        return Baseline(**json.loads((folder / BASELINE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise WorkspaceError(f"{folder / BASELINE} is damaged ({error}). Remove {folder} and run again.") from None


def read_gate_logits(folder: Path) -> NDArray[np.float32]:
    """Return the float network's logits [N, C] for the gate's images; raise `WorkspaceError` if they are damaged."""
    try:
        logits: NDArray[np.float32] = np.load(folder / GATE_LOGITS, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise WorkspaceError(f"{folder / GATE_LOGITS} is damaged ({error}). Remove {folder} and run again.") from None
    return logits
