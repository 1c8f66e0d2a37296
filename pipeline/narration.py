"""One line per stage: what it did, in figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import AccuracyReport, Artifact, Checkpoint, Cost, Image, OnnxModel, Parity, Verdict
from pipeline.baseline import read_baseline
from pipeline.remote.delivered import Delivered
from pipeline.rescued import FloatLayer, Rescue

STAGE_WIDTH = 10


def stage_line(stage: str, facts: str, *, seconds: float, was_cached: bool) -> str:
    """`quantize    7-bit weights, 2 epochs   12.1 s`, or `done before` in place of the time."""
    took = "done before" if was_cached else f"{seconds:.1f} s"
    return f"{stage:<{STAGE_WIDTH}}{facts}   {took}"


def second_line(facts: str) -> str:
    """More of the stage in the line above."""
    return f"{'':<{STAGE_WIDTH}}{facts}"


def cost_text(cost: Cost) -> str:
    return f"{cost.parameters:,} parameters, {cost.macs / 1e6:,.1f} M MACs"


def load_text(folder: Path, *, expected: float | None) -> str:
    checkpoint = Checkpoint(folder=folder)
    baseline = read_baseline(folder).text(expected)
    return f"{checkpoint.architecture.name}, {cost_text(checkpoint.cost)}, {baseline}"


def prune_text(before: Cost, after: Cost) -> str:
    if before == after:
        return "nothing to prune"
    return (
        f"MACs {before.macs / 1e6:,.1f} M -> {after.macs / 1e6:,.1f} M ({after.macs / before.macs:.0%}), "
        f"parameters {before.parameters:,} -> {after.parameters:,} ({after.parameters / before.parameters:.0%})"
    )


def quantize_text(checkpoint: Checkpoint) -> str:
    quantization = checkpoint.quantization
    kept = f", {len(quantization.float_layers)} layers kept in float" if quantization.float_layers else ""
    return f"{len(quantization.weights)} layers, {quantization.weight_bits}-bit weights, 8-bit activations{kept}"


def rescue_texts(found: Rescue | None) -> list[str]:
    """Why layers are in float, and what each of them gains and costs."""
    if found is None:
        return []
    lost = (
        f"int8 in every layer loses {found.int8_drop_points:.2f} points on the {found.images} images of the selection "
        f"split, {found.max_drop:g} allowed"
    )
    if not found.layers:
        return [f"{lost}; not even half of the layers in float would do, so none is"]
    number = f"{len(found.layers)} layer{'s' if len(found.layers) > 1 else ''}"
    took = ""
    if found.int8_ms is not None and found.mixed_ms is not None:
        took = f", {found.int8_ms:.3g} -> {found.mixed_ms:.3g} ms CPU time"
    return [
        f"{lost}; with {number} in float {found.drop_points:.2f}{took}:",
        *(f"  {float_layer_text(layer)}" for layer in found.layers),
    ]


def float_layer_text(layer: FloatLayer) -> str:
    cost = "time not measured" if layer.cost_ms is None else f"costs {layer.cost_ms:+.3f} ms"
    return f"{layer.name} in float: saves {layer.gain_points:.2f} points, {cost}"


def export_text(model: OnnxModel) -> str:
    return f"{model.dialect} dialect and PyTorch: {parity_text(model.parity)}"


def parity_text(parity: Parity) -> str:
    logits = f"logits differ by {parity.max_abs_difference:.2g} at most, spanning {parity.logit_range:.3g}"
    if parity.tensors == 0:
        return f"{logits}, on {parity.images} images, {parity.float_error:.2g} times the error of PyTorch's float32"
    disturbed = "" if parity.is_undisturbed else "; ONNX Runtime fuses other nodes while its integers are looked at"
    return (
        f"equal but for rounding at {parity.tensors} tensors on {parity.images} images (at most "
        f"{parity.largest_distance:.4f} steps; layer by layer, on the file's own integers), {logits}{disturbed}"
    )


def compile_text(artifact: Artifact) -> str:
    audit = artifact.candidate.audit
    if audit is None:
        return f"{artifact.reason}; which layers run in int8 its engine says where it is built"
    return f"{artifact.reason}; {audit.int8_nodes} Conv and Gemm in int8, {audit.float_nodes} in float"


def verdict_text(report: AccuracyReport) -> str:
    """The gate's sentence, for the log and for the error of a build that stops here."""
    low, high = report.drop_interval_points
    figures = (
        f"top-1 {report.float_top1:.2%} -> {report.artifact_top1:.2%} on {report.images} images: "
        f"drop {report.drop_points:+.2f} points, 95 % interval [{low:+.2f}, {high:+.2f}] "
        f"({report.lost} lost, {report.won} won), {report.max_drop_points:g} allowed"
    )
    if report.gate_looks > 1:
        figures += f"; number {report.gate_looks} of this model's artifacts that these images judge"
    lower, upper = report.drop_bounds_points
    if report.verdict is Verdict.PASS:
        return f"pass: {figures}; upper bound {upper:+.2f}"
    if report.verdict is Verdict.FAIL:
        return f"fail: {figures}; lower bound {lower:+.2f}"
    return f"undecided: {figures}; bounds [{lower:+.2f}, {upper:+.2f}]. {report.advice}"


def pending_text(context: Path, image: Image | None, precision: str, rivals: Sequence[str]) -> str:
    """An image without an engine yet, and what it is made of; `rivals`: more precisions that it is to choose from."""
    made = f"build context {context}" if image is None else f"{image.tag}, {image.bytes / 1e6:,.0f} MB"
    if rivals:
        every = ", ".join((precision, *rivals))
        return f"pending: {made}, whose engines ({every}) are built, proven and timed at its first start"
    return f"pending: {made}, whose engine is built and proven at its first start"


def image_text(image: Image, report: AccuracyReport, *, is_same: bool) -> str:
    """Proven by the host's answers, or, where the host is of another platform, by a gate of its own."""
    size = f"{image.tag}, {image.bytes / 1e6:,.0f} MB"
    if is_same:
        return f"{size}, answers like the artifact"
    return f"{size}, {report.place} on {report.instruction_set}: {verdict_text(report)}"


def comparison_text(facts: Mapping[str, Any]) -> str:
    """Why a device serves the precision it does, and which ones took no part, as it said; empty without rivals."""
    comparison = facts.get("comparison")
    if not isinstance(comparison, dict):
        return ""
    return f"{comparison.get('text')}. {facts.get('reason') or ''}".strip()


def delivered_text(devices: Sequence[Delivered]) -> str:
    """How many devices have their proven image, and which have not."""
    failed = [each.device.name for each in devices if each.error is not None]
    proven = f"{len(devices) - len(failed)} of {len(devices)} devices have their proven image"
    return f"package   {proven}" + (f"; without: {', '.join(failed)}" if failed else "")
