"""Reasons that keep an artifact out of an image: the gate's verdict, and a missed time."""

from pipeline.artifacts import AccuracyReport, Artifact, Precision, TimeBudgetResult, Verdict
from pipeline.errors import GateFailed, GateUndecided, LatencyMissed
from pipeline.latency.budget_check import TOLERANCE, timeliness_text


def verdict_text(report: AccuracyReport) -> str:
    """Return the gate's result in one sentence, for the log and for errors."""
    low, high = report.drop_interval_points
    figures = (
        f"top-1 {report.float_top1:.2%} -> {report.artifact_top1:.2%} on {report.images} images: "
        f"drop {report.drop_points:+.2f} points, 95 % interval [{low:+.2f}, {high:+.2f}] "
        f"({report.lost} lost, {report.won} won), {report.max_drop_points:g} allowed"
    )
    if report.gate_looks > 1:
        figures += f"; artifact number {report.gate_looks} of this model judged on these images"
    lower, upper = report.drop_bounds_points
    if report.verdict is Verdict.PASS:
        return f"pass: {figures}; upper bound {upper:+.2f}"
    if report.verdict is Verdict.FAIL:
        return f"fail: {figures}; lower bound {lower:+.2f}"
    return f"undecided: {figures}; bounds [{lower:+.2f}, {upper:+.2f}]. {report.advice}"


def may_be_packaged(report: AccuracyReport, *, package_undecided: bool) -> bool:
    """Whether the verdict allows an image."""
    return report.verdict is Verdict.PASS or (report.verdict is Verdict.UNDECIDED and package_undecided)


def stop_if_not_proven(report: AccuracyReport, *, package_undecided: bool, of: str = "") -> None:
    """Raise if the verdict forbids an image; `of` names a model other than the main one, whose report the error
    carries."""
    if may_be_packaged(report, package_undecided=package_undecided):
        return
    text = of + verdict_text(report)
    error: GateFailed | GateUndecided
    if report.verdict is Verdict.FAIL:
        error = GateFailed(f"{text}. No image was built; artifact and report are kept.")
    else:
        error = GateUndecided(
            f"{text} No image was built; artifact and report are kept. "
            "To build one with the label undecided: --undecided package."
        )
    error.report = None if of else report
    raise error


def stop_if_late(found: TimeBudgetResult | None, artifact: Artifact) -> None:
    """Raise `LatencyMissed` if the artifact is slower than requested by more than the timing's uncertainty."""
    if found is not None and found.verdict == "missed":
        slower = "" if artifact.precision is Precision.INT8 else f" The artifact runs in {artifact.reason}."
        raise LatencyMissed(
            f"{timeliness_text(found)}; timing allows {TOLERANCE:.0%} more.{slower} No image was built; "
            "artifact and report are kept. If the machine was busy, run again: only the timing is repeated. Otherwise "
            "request a time that was reached."
        )
