"""What keeps an artifact out of an image: the gate's verdict, and a time that was asked for and is not held."""

from pipeline.artifacts import AccuracyReport, Artifact, Precision, Verdict
from pipeline.errors import GateFailed, GateUndecided, LatencyMissed
from pipeline.latency.budget_check import TOLERANCE, Timeliness
from pipeline.report.lines import verdict_text


def may_be_packaged(report: AccuracyReport, *, package_undecided: bool) -> bool:
    """Whether the verdict allows an image."""
    return report.verdict is Verdict.PASS or (report.verdict is Verdict.UNDECIDED and package_undecided)


def stop_if_not_proven(report: AccuracyReport, *, package_undecided: bool, of: str = "") -> None:
    """Raise where the verdict forbids an image; `of` names the model where it is not the main one."""
    if may_be_packaged(report, package_undecided=package_undecided):
        return
    text = of + verdict_text(report)
    if report.verdict is Verdict.FAIL:
        raise GateFailed(f"{text}. No image was built; artifact and report are kept.")
    raise GateUndecided(
        f"{text} No image was built; artifact and report are kept. "
        "To build one that is labelled undecided: --undecided package."
    )


def stop_if_late(found: Timeliness | None, artifact: Artifact) -> None:
    """Raise `LatencyMissed` where the artifact is slower than asked by more than timing is uncertain."""
    if found is not None and found.verdict == "missed":
        slower = "" if artifact.precision is Precision.INT8 else f" The artifact runs in {artifact.reason}."
        raise LatencyMissed(
            f"{found}; {TOLERANCE:.0%} more is what timing allows.{slower} No image was built; artifact and report "
            "are kept. If the machine was busy, run again: only the timing is repeated. Else ask for a time that was "
            "reached."
        )
