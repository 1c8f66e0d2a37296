"""What became of each device, for `deploy build --json` and the table."""

from pydantic import BaseModel, ConfigDict, Field

from pipeline.artifacts import Verdict
from pipeline.devices.delivered import Delivered


class DeviceSummary(BaseModel):
    """One device of a target. A field is null where its work did not get that far."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str
    address: str
    exit_code: int = Field(description="0, or that of this device's error")
    error: str | None = Field(description="why it has no proven image, and what to do")
    verdict: Verdict | None = Field(description="this host's, on the answers that the device gave")
    drop_points: float | None
    drop_interval_points: tuple[float, float] | None
    instruction_set: str | None
    runtime: str | None
    notes: tuple[str, ...] = Field(description="what belongs beside every figure of it, such as its power mode")
    image: str | None = Field(description="id of the tagged image there")
    proof: str | None = Field(description="folder with what the device proved")
    done_before: bool
    sent_bytes: int = Field(description="that the device lacked")
    seconds: float


def summarize_device(done: Delivered) -> DeviceSummary:
    report = done.report
    return DeviceSummary(
        device=done.device.name,
        address=done.device.address,
        exit_code=0 if done.error is None else done.error.exit_code,
        error=None if done.error is None else str(done.error),
        verdict=None if report is None else report.verdict,
        drop_points=None if report is None else report.drop_points,
        drop_interval_points=None if report is None else report.drop_interval_points,
        instruction_set=None if report is None else report.instruction_set,
        runtime=None if report is None else report.runtime,
        notes=done.notes,
        image=done.image,
        proof=None if done.folder is None else str(done.folder),
        done_before=done.was_done_before,
        sent_bytes=done.sent_bytes,
        seconds=round(done.seconds, 3),
    )


def device_row(found: DeviceSummary) -> tuple[str, str, str, str]:
    """As the summary's rows: name, nothing, what it says, details."""
    if found.error is not None:
        return (f"device {found.device}", "", "not proven", f"exit code {found.exit_code}")
    assert found.drop_points is not None
    how = "proven before" if found.done_before else f"{found.seconds:.0f} s, {found.sent_bytes / 1e6:,.2f} MB sent"
    return (f"device {found.device}", "", "proven", f"drop {found.drop_points:+.2f} points; {how}")
