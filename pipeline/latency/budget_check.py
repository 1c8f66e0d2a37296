"""Check the requested time: predicted by the table, measured after pruning, and measured for the artifact.

A speedup is relative to the unpruned network in the precision of the table (int8 if available), timed beside the
artifact in one run: two separate runs differ by other load on the machine, 10 % and more.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pipeline.artifacts import Artifact, Place, TimeBudgetResult
from pipeline.latency.table import CHOICE, Timing

TOLERANCE = 0.05
"""Share by which an artifact may be slower than requested: two runs of one model on a busy machine differ as much."""


def timeliness_text(found: TimeBudgetResult) -> str:
    """`time held: 8 ms requested, 7.9 ms predicted, 7.7 ms of the artifact`."""
    if found.asked_ms is not None:
        asked, unit = f"{found.asked_ms:.3g} ms", " ms"
        values = (found.predicted_ms, found.planned_ms, found.artifact_ms)
    else:
        asked, unit = f"a speedup of {found.asked_speedup:.3g}", ""
        values = (found.predicted_speedup, found.planned_speedup, found.artifact_speedup)
    names = ("predicted", "measured after pruning", "of the artifact")
    figures = [f"{value:.3g}{unit} {name}" for value, name in zip(values, names, strict=True) if value is not None]
    why = f" ({found.reason})" if found.reason else ""
    return f"time {found.verdict}{why}: {asked} requested, {', '.join(figures)}"


def check_time_budget(
    pruned: Path, artifact: Artifact, clocked: Callable[[bool], Timing | None]
) -> TimeBudgetResult | None:
    """Compare the folder of stage `prune` with the artifact's times; return None if no time was requested.

    `clocked` returns the artifact's and the unpruned network's time in one run, the known ones or, if True, new ones:
    a miss is timed once more before it counts.
    """
    file = pruned / CHOICE
    if not file.exists():
        return None
    plan = json.loads(file.read_text())
    found = _timeliness(plan, artifact, clocked(False))
    return found if found.verdict != "missed" else _timeliness(plan, artifact, clocked(True))


def _timeliness(plan: dict[str, Any], artifact: Artifact, timing: Timing | None) -> TimeBudgetResult:
    asked, measured = plan["asked"], plan["measured"]
    reason = _why_unmeasured(plan["not_measured"], artifact)
    of_artifact = speedup = None
    if timing is not None and not reason:
        of_artifact, speedup = timing.pruned_ms, timing.unpruned_ms / timing.pruned_ms
    return TimeBudgetResult(
        asked_ms=asked["latency_ms"],
        asked_speedup=asked["speedup"],
        predicted_ms=plan["predicted_ms"],
        predicted_speedup=plan["unpruned_ms"] / plan["predicted_ms"],
        planned_ms=measured and measured["pruned_ms"],
        planned_speedup=measured and measured["unpruned_ms"] / measured["pruned_ms"],
        artifact_ms=of_artifact,
        artifact_speedup=speedup,
        verdict=_verdict(asked["latency_ms"], asked["speedup"], of_artifact, speedup),
        reason=reason,
    )


def _why_unmeasured(not_measured: str | None, artifact: Artifact) -> str:
    if not_measured:
        return not_measured
    if artifact.place is Place.SIMULATED:
        return "only its device times it"
    return "" if artifact.place is Place.HOST else f"timed on {artifact.measured_by}"


def _verdict(
    asked_ms: float | None, asked_speedup: float | None, ms: float | None, speedup: float | None
) -> Literal["held", "missed", "unmeasured"]:
    if asked_ms is not None:
        if ms is None:
            return "unmeasured"
        return "held" if ms <= asked_ms * (1 + TOLERANCE) else "missed"
    if speedup is None or asked_speedup is None:
        return "unmeasured"
    return "held" if speedup >= asked_speedup / (1 + TOLERANCE) else "missed"
