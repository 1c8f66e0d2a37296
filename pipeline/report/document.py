"""Results of a build: the document of `deploy build --json`, and the rows of the table before -> after.

Also the parts about layers kept in float to meet the budget.

Also the parts about each device.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline import __version__
from pipeline.artifacts import Artifact, Place, Precision, Verdict
from pipeline.devices.delivered import Delivered
from pipeline.errors import DeployError, worst_of
from pipeline.outcome import Outcome
from pipeline.quantize.result import Rescue
from pipeline.validate.published import proofs_of
from targets.device.model.manifest import ManifestError, read_manifest
from targets.device.model.variant import FOLDER


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, from_attributes=True)


class FloatLayerSummary(Part):
    """A layer kept in float because int8 in every layer would have lost more than is allowed."""

    name: str
    gain_points: float = Field(description="points of top-1 that would be lost in addition with it in int8")
    cost_ms: float | None = Field(
        description="CPU time it adds to the int8 model; null if the target cannot be timed here"
    )


class RescueSummary(Part):
    """Figures on the selection split, against the network before it was quantized."""

    images: int
    int8_drop_points: float = Field(description="loss with int8 in every layer")
    drop_points: float = Field(description="with the layers below in float")
    int8_ms: float | None = Field(description="CPU time of one image with every layer in int8")
    mixed_ms: float | None = Field(description="with the layers below in float, in the same run")
    layers: list[FloatLayerSummary] = Field(description="empty if even half of the layers would not have sufficed")


def summarize_rescue(rescue: Rescue | None) -> RescueSummary | None:
    return None if rescue is None else RescueSummary.model_validate(rescue)


def rescue_rows(found: RescueSummary | None) -> list[tuple[str, str, str, str]]:
    """Return a row for each layer in float."""
    rows = []
    for layer in [] if found is None else found.layers:
        cost = "time not measured" if layer.cost_ms is None else f"{layer.cost_ms:+.3f} ms"
        rows.append(("in float", "", layer.name, f"saves {layer.gain_points:.2f} points, {cost}"))
    return rows


class DeviceSummary(BaseModel):
    """One device of a target. A field is null if its work did not get that far."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str
    address: str
    exit_code: int = Field(description="0, or that of this device's error")
    error: str | None = Field(description="why it has no proven image, and what to do")
    verdict: Verdict | None = Field(description="this host's, on the device's answers")
    drop_points: float | None
    drop_interval_points: tuple[float, float] | None
    instruction_set: str | None
    runtime: str | None
    notes: tuple[str, ...] = Field(description="notes for every figure of it, such as its power mode")
    image: str | None = Field(description="id of the tagged image on the device")
    proof: str | None = Field(description="folder with the device's proof")
    done_before: bool
    sent_bytes: int = Field(description="bytes that the device did not have yet")
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
    """Return a row of the summary: name, nothing, result, details."""
    if found.error is not None:
        return (f"device {found.device}", "", "not proven", f"exit code {found.exit_code}")
    assert found.drop_points is not None
    how = "proven before" if found.done_before else f"{found.seconds:.0f} s, {found.sent_bytes / 1e6:,.2f} MB sent"
    return (f"device {found.device}", "", "proven", f"drop {found.drop_points:+.2f} points; {how}")


SCHEMA_VERSION: Literal[1] = 1
# The name of `pipeline.validate.published` in the artifact's folder.
REPORT = "report.json"


class ImageSummary(Part):
    tag: str
    id: str
    bytes: int


class VariantSummary(Part):
    """The 7-bit variant for CPUs without VNNI; timed beside the float baseline in a separate run."""

    verdict: Verdict
    place: Place
    artifact_top1: float = Field(description="fraction; on the gate's images")
    drop_points: float
    drop_interval_points: tuple[float, float]
    drop_bounds_points: tuple[float, float]
    advice: str | None
    artifact_latency_ms: float = Field(description="CPU time of one image on this host")
    latency_ratio: float = Field(description="artifact_latency_ms / that of the float baseline in the same run")
    artifact_bytes: int | None
    report: str | None


class GroupSummary(Part):
    """One group of the gate's images, such as the faces of one size."""

    name: str
    images: int
    float_share: float = Field(description="fraction of correct answers: the recall, if the group is of one class")
    float_interval: tuple[float, float] = Field(description="two-sided 95 % interval (Wilson)")
    artifact_share: float
    artifact_interval: tuple[float, float]


class TimeSummary(Part):
    """The time requested by --latency or --speedup (the other one is null); CPU time of one image."""

    verdict: Literal["held", "missed", "unmeasured"] = Field(description="of the artifact, within 5 %")
    reason: str = Field(description="why it is unmeasured; empty otherwise")
    asked_ms: float | None
    asked_speedup: float | None = Field(description="over the unpruned network in int8, if the target supports it")
    predicted_ms: float = Field(description="by the latency table")
    predicted_speedup: float
    planned_ms: float | None = Field(description="measured after pruning, before recovery")
    planned_speedup: float | None
    artifact_ms: float | None = Field(description="measured when it was compiled; once more if it was too slow")
    artifact_speedup: float | None


class TargetSummary(Part):
    """One target. A field is null if the build did not get that far."""

    target: str
    exit_code: int = Field(description="0, or that of this target's error; `deploy --help` lists them")
    error: str | None = Field(description="why the build stopped, and what to do")
    verdict: Verdict | None = Field(description="of the gate: pass, fail, or undecided if there are too few images")
    advice: str | None = Field(description="if undecided: how many images would decide it, or that none would")
    place: Place | None = Field(description="where the artifact's answers come from; simulated: ONNX Runtime's")
    proof: Literal["proven", "pending"] | None = Field(
        description="pending: passed in simulation, but its engine is not built and proven yet; null: not passed"
    )
    proven_on: list[str] | None = Field(description="names of devices whose own answers have passed")
    built: Literal["host", "device", "first-start"] | None = Field(
        description="where a TensorRT engine is built; host: by this machine's own GPU; null for a CPU"
    )
    images: int | None = Field(description="images of the gate")
    float_top1: float | None = Field(description="fraction; the unchanged checkpoint, in PyTorch")
    artifact_top1: float | None = Field(description="fraction; the artifact itself, on the same images")
    float_top5: float | None = Field(description="fraction; null for ten classes or fewer")
    artifact_top5: float | None = Field(description="fraction; null for ten classes or fewer")
    drop_points: float | None = Field(description="loss of top-1 in points; positive means a loss")
    drop_interval_points: tuple[float, float] | None = Field(description="two-sided 95 % interval of the drop (Tango)")
    drop_bounds_points: tuple[float, float] | None = Field(
        description="one-sided bounds of `confidence`: pass if upper <= allowed"
    )
    confidence: float | None = Field(description="0.95; higher if corrected for looks at the gate")
    expected_accuracy: float | None = Field(description="expected accuracy of the float network, as a fraction")
    max_drop_points: float | None = Field(description="the allowed drop")
    flip_rate: float | None = Field(description="share of images whose predicted class changed")
    worst_class: str | None = Field(description="the class that loses most")
    worst_class_drop_points: float | None
    groups: list[GroupSummary] | None = Field(description="null if the dataset defines none")
    gate_looks: int | None = Field(
        description="artifacts of this model judged on these images so far, including this one"
    )
    precision: Precision | None
    reason: str | None = Field(description="why this precision was chosen")
    float_latency_ms: float | None = Field(
        description="CPU time of one image through the unpruned fp32 model in ONNX Runtime"
    )
    artifact_latency_ms: float | None = Field(description="CPU time of one image, timed in the same run")
    latency_ratio: float | None = Field(description="artifact_latency_ms / float_latency_ms")
    time: TimeSummary | None = Field(description="null if no time was requested")
    timed_on: str | None = Field(description="platform of the machine that measured all latencies")
    timed_on_target: bool | None = Field(
        description="false if that is not the target's platform: no latency here is then the device's"
    )
    float_wall_ms: float | None = Field(description="median wall time; other programs make it longer")
    artifact_wall_ms: float | None
    threads: int | None = Field(description="threads of the figures")
    instruction_set: str | None = Field(description="best one of the CPU that answered")
    runtime: str | None
    float_bytes: int | None = Field(description="fp32 weights of the unpruned network")
    artifact_bytes: int | None = Field(description="the artifact's model file")
    macs_before: int | None
    macs_after: int | None
    params_before: int | None
    params_after: int | None
    int8_nodes: int | None = Field(description="Conv and Gemm that the runtime runs in int8")
    float_nodes: int | None = Field(description="Conv and Gemm that the runtime runs in float")
    rescue: RescueSummary | None = Field(description="null if int8 in every layer is within the budget")
    saturation_safe: VariantSummary | None = Field(description="null if none was requested, needed or judged")
    image: ImageSummary | None
    context: str | None = Field(description="folder to build the image from, if its engine is pending")
    devices: list[DeviceSummary] | None = Field(description="devices that build and prove the image; null without any")
    artifact: str | None = Field(description="folder of the published artifact")
    report: str | None = Field(description="the gate's report")
    seconds: float = Field(description="work of all stages, in this build or an earlier one")
    stage_seconds: dict[str, float]


class Document(Part):
    """The complete output of `deploy build --json`: printed on stdout exactly once, also after an error."""

    schema_version: Literal[1] = Field(description="raised when a field changes its meaning or is removed")
    tool: str = Field(description="version of edge-deploy")
    exit_code: int = Field(description="exit code of the process: 0, or that of the worst error of all targets")
    error: str | None = Field(description="why no target was attempted")
    targets: list[TargetSummary]


def summary_schema() -> dict[str, object]:
    """Return the JSON Schema of `Document`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Document.model_json_schema()}


def document(outcomes: Sequence[Outcome], *, error: DeployError | None) -> str:
    """Return the document as JSON; `error` is one before the first target."""
    return Document(
        schema_version=SCHEMA_VERSION,
        tool=__version__,
        exit_code=_exit_code(outcomes, error),
        error=None if error is None else str(error),
        targets=[summarize(outcome) for outcome in outcomes],
    ).model_dump_json(indent=2)


def _exit_code(outcomes: Sequence[Outcome], error: DeployError | None) -> int:
    """Return the exit code of the process: that of the worst error."""
    worst = error or worst_of([outcome.error for outcome in outcomes if outcome.error is not None])
    return 0 if worst is None else worst.exit_code


def summarize(outcome: Outcome) -> TargetSummary:
    """Return one target's facts in one flat record."""
    report, published, image = outcome.report, outcome.published, outcome.image
    return TargetSummary.model_validate(
        {
            **dict.fromkeys(TargetSummary.model_fields),
            **_of_report(outcome),
            **_of_artifact(outcome.artifact),
            **_of_timing(outcome),
            **_of_cost(outcome),
            "target": outcome.target.name,
            "exit_code": 0 if outcome.error is None else outcome.error.exit_code,
            "error": None if outcome.error is None else str(outcome.error),
            "time": None if outcome.timeliness is None else vars(outcome.timeliness),
            "rescue": summarize_rescue(outcome.rescue),
            "saturation_safe": _of_variant(outcome),
            **_of_engine(outcome),
            "image": None if image is None else {"tag": image.tag, "id": image.id, "bytes": image.bytes},
            "devices": [summarize_device(each) for each in outcome.delivered] or None,
            "artifact": None if published is None else str(published),
            "report": None if published is None or report is None else str(published / REPORT),
            "seconds": sum(outcome.stage_seconds.values()),
            "stage_seconds": dict(outcome.stage_seconds),
        }
    )


def _of_report(outcome: Outcome) -> dict[str, object]:
    report = outcome.report
    if report is None:
        return {}
    same = set(TargetSummary.model_fields) & set(type(report).__dataclass_fields__)
    return {**{name: getattr(report, name) for name in same}, "advice": report.advice or None} | {
        "groups": [vars(group) for group in report.groups] or None
    }


def _of_engine(outcome: Outcome) -> dict[str, object]:
    """Return what is missing between the report and a proof, if anything."""
    report = outcome.report
    if report is None or report.verdict is not Verdict.PASS:
        return {}
    # A device serves the main model or, if its terms allow it, an alternative.
    models = {report.artifact_sha256, *(each.report.artifact_sha256 for each in outcome.variants)}
    proofs = [] if outcome.published is None else list(proofs_of(outcome.published))
    on_devices = [
        proof.device for proof in proofs if proof.artifact_sha256 in models and proof.verdict is Verdict.PASS
    ]
    is_pending = report.place is Place.SIMULATED and not on_devices
    return {
        "proof": "pending" if is_pending else "proven",
        "proven_on": on_devices,
        "built": _where_built(outcome),
        "context": None if outcome.context is None else str(outcome.context),
    }


def _where_built(outcome: Outcome) -> str | None:
    if outcome.delivered and outcome.target.gpu is not None:
        return "host" if all(each.device.is_local for each in outcome.delivered) else "device"
    return "first-start" if outcome.context is not None else None


def _of_artifact(artifact: Artifact | None) -> dict[str, object]:
    if artifact is None:
        return {}
    audit = artifact.candidate.audit
    found: dict[str, object] = {
        "precision": artifact.precision,
        "reason": artifact.reason,
        "artifact_bytes": _model_bytes(artifact),
        "int8_nodes": audit and audit.int8_nodes,
        "float_nodes": audit and audit.float_nodes,
    }
    before, after = artifact.float_latency, artifact.candidate.latency
    if before is None or after is None:
        return found
    return found | {
        "float_latency_ms": before.cpu_ms,
        "artifact_latency_ms": after.cpu_ms,
        "latency_ratio": after.cpu_ms / before.cpu_ms,
        "float_wall_ms": before.wall_ms,
        "artifact_wall_ms": after.wall_ms,
        "threads": after.threads,
    }


def _of_variant(outcome: Outcome) -> dict[str, object] | None:
    variant = next((each for each in outcome.variants if each.beside == FOLDER), None)
    if variant is None:
        return None
    published = outcome.published
    fields = set(VariantSummary.model_fields)
    of_report = {name: value for name, value in vars(variant.report).items() if name in fields}
    of_artifact = {name: value for name, value in _of_artifact(variant.artifact).items() if name in fields}
    report = None if published is None else str(published / FOLDER / REPORT)
    return {**of_report, **of_artifact, "advice": variant.report.advice or None, "report": report}


def _of_timing(outcome: Outcome) -> dict[str, object]:
    if outcome.artifact is None or outcome.artifact.float_latency is None:
        return {}
    artifact = outcome.artifact
    return {"timed_on": artifact.measured_by, "timed_on_target": artifact.place is Place.HOST}


def _of_cost(outcome: Outcome) -> dict[str, object]:
    before, after = outcome.before, outcome.after
    return {
        "float_bytes": before and before.weight_bytes,
        "macs_before": before and before.macs,
        "params_before": before and before.parameters,
        "macs_after": after and after.macs,
        "params_after": after and after.parameters,
    }


def _model_bytes(artifact: Artifact) -> int | None:
    try:
        return (artifact.folder / read_manifest(artifact.folder).model_file).stat().st_size
    except (ManifestError, OSError):
        # The build has already failed because of it; its error is in the document.
        return None
