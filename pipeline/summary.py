"""What a build came to: the one document of `deploy build --json`, and the rows of the table before -> after."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline import __version__
from pipeline.artifacts import Artifact, Place, Precision, Verdict
from pipeline.build import Outcome
from pipeline.errors import DeployError
from targets.device.manifest import ManifestError, read_manifest
from targets.device.variant import FOLDER

SCHEMA_VERSION: Literal[1] = 1
# As `pipeline.publish` names it in the artifact's folder.
REPORT = "report.json"
Row = tuple[str, str, str, str, str]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageSummary(Part):
    tag: str
    id: str
    bytes: int


class VariantSummary(Part):
    """The 7-bit variant that CPUs without VNNI run; timed beside the float baseline in a run of its own."""

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


class TargetSummary(Part):
    """One target. A field is null where the build did not get that far."""

    target: str
    exit_code: int = Field(description="0, or that of this target's error; `deploy --help` lists them")
    error: str | None = Field(description="why the build stopped, and what to do")
    verdict: Verdict | None = Field(description="of the gate: pass, fail, or undecided for want of images")
    advice: str | None = Field(description="where undecided: how many images would decide it, or that none would")
    place: Place | None = Field(description="where the artifact's answers come from")
    images: int | None = Field(description="images of the gate")
    float_top1: float | None = Field(description="fraction; the checkpoint that came in, in PyTorch")
    artifact_top1: float | None = Field(description="fraction; the artifact itself, on the same images")
    float_top5: float | None = Field(description="fraction; null for ten classes or fewer")
    artifact_top5: float | None = Field(description="fraction; null for ten classes or fewer")
    drop_points: float | None = Field(description="loss of top-1 in points; a loss is positive")
    drop_interval_points: tuple[float, float] | None = Field(description="two-sided 95 % interval of the drop (Tango)")
    drop_bounds_points: tuple[float, float] | None = Field(
        description="one-sided 95 % bounds: pass if upper <= allowed"
    )
    max_drop_points: float | None = Field(description="the drop that is allowed")
    flip_rate: float | None = Field(description="share of images whose predicted class changed")
    worst_class: str | None = Field(description="the class that loses most")
    worst_class_drop_points: float | None
    gate_looks: int | None = Field(description="different artifacts of this model that this gate set has judged")
    precision: Precision | None
    reason: str | None = Field(description="why this precision was chosen")
    float_latency_ms: float | None = Field(
        description="CPU time of one image through the unpruned fp32 model in ONNX Runtime"
    )
    artifact_latency_ms: float | None = Field(description="CPU time of one image, timed in the same run")
    latency_ratio: float | None = Field(description="artifact_latency_ms / float_latency_ms")
    timed_on: str | None = Field(description="platform of the machine that all latencies are of")
    timed_on_target: bool | None = Field(
        description="false where that is not the target's platform: no latency here is then the device's"
    )
    float_wall_ms: float | None = Field(description="median wall time; busy neighbors make it longer")
    artifact_wall_ms: float | None
    threads: int | None = Field(description="that the figures are for")
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
    saturation_safe: VariantSummary | None = Field(description="null where none was asked for, needed or judged")
    image: ImageSummary | None
    artifact: str | None = Field(description="folder of the published artifact")
    report: str | None = Field(description="the gate's report")
    seconds: float = Field(description="work of all stages, done in this build or before")
    stage_seconds: dict[str, float]


class Document(Part):
    """Everything `deploy build --json` says, on stdout, exactly once, whatever happened."""

    schema_version: Literal[1] = Field(description="raised when a field changes its meaning or goes")
    tool: str = Field(description="version of edge-deploy")
    exit_code: int = Field(description="not 0 where no target was attempted; else see each target's")
    error: str | None = Field(description="why no target was attempted")
    targets: list[TargetSummary]


def summary_schema() -> dict[str, object]:
    """JSON Schema of `Document`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Document.model_json_schema()}


def document(outcomes: Sequence[Outcome], *, error: DeployError | None) -> str:
    """The document as JSON; `error` is one that came before any target."""
    return Document(
        schema_version=SCHEMA_VERSION,
        tool=__version__,
        exit_code=0 if error is None else error.exit_code,
        error=None if error is None else str(error),
        targets=[summarize(outcome) for outcome in outcomes],
    ).model_dump_json(indent=2)


def summarize(outcome: Outcome) -> TargetSummary:
    """One target's facts in one flat record."""
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
            "saturation_safe": _of_variant(outcome),
            "image": None if image is None else {"tag": image.tag, "id": image.id, "bytes": image.bytes},
            "artifact": None if published is None else str(published),
            "report": None if published is None or report is None else str(published / REPORT),
            "seconds": sum(outcome.stage_seconds.values()),
            "stage_seconds": dict(outcome.stage_seconds),
        }
    )


def table_header() -> Row:
    return ("target", "", "before", "after", "change")


def table_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """One line per figure and target; figures that the build did not come to are left out."""
    rows: list[Row] = []
    for found in map(summarize, outcomes):
        names = iter([found.target])
        rows += [(next(names, ""), *row) for row in _rows(found)]
    return rows


def _of_report(outcome: Outcome) -> dict[str, object]:
    report = outcome.report
    if report is None:
        return {}
    same = set(TargetSummary.model_fields) & set(type(report).__dataclass_fields__)
    return {**{name: getattr(report, name) for name in same}, "advice": report.advice or None}


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
    variant, published = outcome.variant, outcome.published
    if variant is None:
        return None
    fields = set(VariantSummary.model_fields)
    of_report = {name: value for name, value in vars(variant.report).items() if name in fields}
    of_artifact = {name: value for name, value in _of_artifact(variant.artifact).items() if name in fields}
    report = None if published is None else str(published / FOLDER / REPORT)
    return {**of_report, **of_artifact, "advice": variant.report.advice or None, "report": report}


def _of_timing(outcome: Outcome) -> dict[str, object]:
    if outcome.artifact is None or outcome.artifact.float_latency is None:
        return {}
    stand_in = outcome.artifact.stand_in
    return {"timed_on": stand_in or outcome.target.platform, "timed_on_target": stand_in is None}


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
        # The build has failed over it already; its error is in the document.
        return None


def _rows(found: TargetSummary) -> list[tuple[str, str, str, str]]:
    rows = [_verdict_row(found)]
    if found.drop_points is not None and found.drop_interval_points is not None:
        low, high = found.drop_interval_points
        change = f"drop {found.drop_points:+.2f} points, 95 % [{low:+.2f}, {high:+.2f}]"
        rows.append(("top-1", _percent(found.float_top1), _percent(found.artifact_top1), change))
    if found.float_top5 is not None:
        rows.append(("top-5", _percent(found.float_top5), _percent(found.artifact_top5), ""))
    if found.flip_rate is not None:
        rows.append(("predictions", "", f"{_percent(found.flip_rate)} changed", f"on {found.images:,} images"))
    for name, before, after, text in (
        ("latency", found.float_latency_ms, found.artifact_latency_ms, _milliseconds),
        ("size", found.float_bytes, found.artifact_bytes, _megabytes),
        ("MACs", found.macs_before, found.macs_after, _millions),
        ("parameters", found.params_before, found.params_after, _millions),
    ):
        if before is not None and after is not None:
            is_elsewhere = name == "latency" and not found.timed_on_target
            note = f", timed on {found.timed_on}, not the target" if is_elsewhere else ""
            rows.append((name, text(before), text(after), f"x {after / before:.2f}{note}"))
    safe = found.saturation_safe
    if safe is not None:
        low, high = safe.drop_interval_points
        note = f"{safe.verdict}: drop {safe.drop_points:+.2f} points, 95 % [{low:+.2f}, {high:+.2f}]"
        rows.append(("7-bit variant", "", _percent(safe.artifact_top1), f"{note}, x {safe.latency_ratio:.2f}"))
    if found.image is not None:
        rows.append(("image", "", _megabytes(found.image.bytes), found.image.tag))
    return rows


def _verdict_row(found: TargetSummary) -> tuple[str, str, str, str]:
    if found.verdict is None or found.drop_bounds_points is None:
        return ("stopped", "", "", "done as asked" if found.error is None else f"exit code {found.exit_code}")
    lower, upper = found.drop_bounds_points
    bound = f"lower bound {lower:+.2f}" if found.verdict is Verdict.FAIL else f"upper bound {upper:+.2f}"
    stopped = "" if found.error is None else f"; exit code {found.exit_code}"
    return ("verdict", "", found.verdict, f"{bound}, {found.max_drop_points:g} allowed{stopped}")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _milliseconds(value: float) -> str:
    return f"{value:.3f} ms" if value < 10 else f"{value:.1f} ms"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.2f} MB"


def _millions(value: float) -> str:
    return f"{value / 1e6:,.2f} M"
