"""An open model on this device, with the results of its checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional

from targets.device.model.golden import GoldenResult
from targets.device.model.session import Session
from targets.device.model.variant import Chosen

if TYPE_CHECKING:
    from targets.device.gate.predictions import Predictions


@dataclass(frozen=True)
class Started:
    chosen: Chosen
    session: Session
    golden: GoldenResult
    report: Optional[Dict[str, Any]]
    """The gate's report: made here, or for a CPU the model's own; None if there is none."""
    is_proven: bool
    """Whether the golden images match and the verdict is pass."""
    refusal: str
    """Why it must not be served; empty if it may."""
    remark: str = ""
    """Why it is served although it is not proven, or is not the main model."""
    predictions: Optional[Predictions] = None
    """The predictions behind the report, if it was made here."""
    measurements: Optional[Dict[str, Any]] = None
    folder: Optional[Path] = None
    """Folder with engine, passport and proof on a GPU."""
    comparison: Optional[Dict[str, Any]] = None
    """Comparison of engines in several precisions, see `tensorrt.fastest`; None if there was nothing to compare."""

    @property
    def place(self) -> str:
        """Runtime and instruction set, e.g. `onnxruntime 1.22.0 on avx2`."""
        return f"{self.session.runtime} on {self.session.instruction_set}"

    @property
    def reason(self) -> str:
        """Why it is not proven, or remarks on the proof."""
        return " ".join(text for text in (self.refusal, self.remark) if text)
