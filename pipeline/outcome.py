"""The result for one target: everything up to the stage that failed, if one did."""

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.artifacts import AccuracyReport, Artifact, Cost, Image, TimeBudgetResult
from pipeline.devices.delivered import Delivered
from pipeline.errors import DeployError, GateFailed, GateUndecided, LatencyMissed
from pipeline.quantize.result import Rescue
from pipeline.results import Judged
from targets.target import Target

ANSWERS = (GateFailed, GateUndecided, LatencyMissed)
"""Errors that are results of a build; any other error prevented it from continuing."""


@dataclass(kw_only=True)
class Outcome:
    """Result of a build so far, filled in stage by stage."""

    target: Target
    error: DeployError | None = None
    before: Cost | None = None
    after: Cost | None = None
    rescue: Rescue | None = None
    """Set if int8 in every layer would have lost more than is allowed."""
    artifact: Artifact | None = None
    timeliness: TimeBudgetResult | None = None
    """Set if a latency or speedup was requested."""
    report: AccuracyReport | None = None
    variants: tuple[Judged, ...] = ()
    """Judged models besides the main one."""
    image: Image | None = None
    context: Path | None = None
    """Build context of an image whose engine is built and proven where it is started."""
    published: Path | None = None
    delivered: tuple[Delivered, ...] = ()
    """Results of the requested devices."""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage's work, in this build or an earlier one."""
    did_work: bool = False

    @property
    def was_done_before(self) -> bool:
        """Whether no stage had work to do, including a gate that had already failed before."""
        return not self.did_work and (self.error is None or isinstance(self.error, ANSWERS))
