"""What a verdict allows: an image, or an error that says why there is none."""

from pipeline import narration
from pipeline.artifacts import AccuracyReport, Verdict
from pipeline.errors import GateFailed, GateUndecided


def may_be_packaged(report: AccuracyReport, *, package_undecided: bool) -> bool:
    """Whether the verdict allows an image."""
    return report.verdict is Verdict.PASS or (report.verdict is Verdict.UNDECIDED and package_undecided)


def stop_if_not_proven(report: AccuracyReport, *, package_undecided: bool, of: str = "") -> None:
    """Raise where the verdict forbids an image; `of` names the model where it is not the main one."""
    if may_be_packaged(report, package_undecided=package_undecided):
        return
    text = of + narration.verdict_text(report)
    if report.verdict is Verdict.FAIL:
        raise GateFailed(f"{text}. No image was built; artifact and report are kept.")
    raise GateUndecided(
        f"{text} No image was built; artifact and report are kept. "
        "To build one that is labelled undecided: --undecided package."
    )
