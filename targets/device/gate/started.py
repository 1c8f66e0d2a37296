"""A model that is open on this device, and what is known of it there."""

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
    """The gate's: made here, or for a CPU the one that came with the model; None where none did."""
    is_proven: bool
    """The golden images match, and the report says pass."""
    refusal: str
    """Why it may not be served; empty where it may."""
    remark: str = ""
    """Why it is served although it is not proven, or not the main model."""
    predictions: Optional[Predictions] = None
    """What the report was made of, where it was made here."""
    measurements: Optional[Dict[str, Any]] = None
    folder: Optional[Path] = None
    """Where engine, passport and proof of a GPU are kept."""
    comparison: Optional[Dict[str, Any]] = None
    """Of engines in several precisions, see `trt_comparison`; None where there was nothing to compare."""

    @property
    def place(self) -> str:
        """What runs the model here, as `onnxruntime 1.22.0 on avx2`."""
        return f"{self.session.runtime} on {self.session.instruction_set}"

    @property
    def reason(self) -> str:
        """Why it is not proven, or what is to be known of a proof."""
        return " ".join(text for text in (self.refusal, self.remark) if text)
