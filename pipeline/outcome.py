"""What became of one target: everything up to the stage that failed, if one did."""

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.artifacts import AccuracyReport, Artifact, Cost, Image, Timeliness
from pipeline.devices.delivered import Delivered
from pipeline.errors import DeployError, GateFailed, GateUndecided, LatencyMissed
from pipeline.quantize.result import Rescue
from pipeline.results import Judged
from targets.target import Target

ANSWERS = (GateFailed, GateUndecided, LatencyMissed)
"""Errors that are what a build has found out, not what kept it from going on."""


@dataclass(kw_only=True)
class Outcome:
    """Grows with the build, whatever happens."""

    target: Target
    error: DeployError | None = None
    before: Cost | None = None
    after: Cost | None = None
    rescue: Rescue | None = None
    """Where int8 in every layer would have lost more than is allowed."""
    artifact: Artifact | None = None
    timeliness: Timeliness | None = None
    """Where a time was asked for."""
    report: AccuracyReport | None = None
    variants: tuple[Judged, ...] = ()
    """Models beside the main one, once they are judged."""
    image: Image | None = None
    context: Path | None = None
    """Of an image whose engine is built, and proven, where it is started."""
    published: Path | None = None
    delivered: tuple[Delivered, ...] = ()
    """What became of each device that was asked for."""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds each stage took when it was done, in this build or an earlier one."""
    did_work: bool = False

    @property
    def was_done_before(self) -> bool:
        """Whether nothing was left to do; a gate that says no has been asked before, too."""
        return not self.did_work and (self.error is None or isinstance(self.error, ANSWERS))
